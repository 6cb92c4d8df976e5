"""Embeddings of whole data sets, encoded in batches of one size."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int

from vljax.evaluation.evaluator import Encode, EvaluationData, of_images


@dataclass(frozen=True)
class ImageEmbeddings:
    """The embeddings of the images that could be read.

    Attributes:
      embedding: one row an image, in the order of the data.
      index: the position of each row's example in the data.
      unreadable: how many of the examples asked for had no readable image.
    """

    embedding: Float[np.ndarray, "images embed"]
    index: Int[np.ndarray, " images"]
    unreadable: int


def embed_images(
    encode: Encode, data: EvaluationData, batch_size: int, *, where: Bool[np.ndarray, " examples"]
) -> ImageEmbeddings:
    """The embeddings of the readable images among some of the examples.

    Args:
      encode: the model.
      data: the examples.
      batch_size: examples encoded at a time.
      where: which examples are asked for.

    Raises:
      ValueError: if the batches hold fewer rows than the data has examples.
    """
    rows, valid = [], []
    for batch in data.batches(batch_size):
        rows.append(encode(of_images(batch))["image/embedding"])
        valid.append(batch["valid"])
    total = sum(len(flags) for flags in valid)
    if total < len(where):
        raise ValueError(f"the batches hold {total} rows for {len(where)} examples")
    if not total:
        return ImageEmbeddings(np.zeros((0, 0), np.float32), np.zeros(0, np.int64), 0)
    readable = np.concatenate(valid)[: len(where)]
    index = np.flatnonzero(where & readable)
    embedding = np.concatenate(rows)[index]
    return ImageEmbeddings(embedding, index, int(np.count_nonzero(where & ~readable)))


def embed_texts(
    encode: Encode, data: EvaluationData, texts: list[str], batch_size: int
) -> Float[np.ndarray, "texts embed"]:
    """Encodes texts, tokenized as the data set's captions are; at least one."""
    ids, mask = data.tokenizer(texts)
    rows = []
    for start in range(0, len(texts), batch_size):
        # Padding repeats a text: a row without any token could divide by zero in the model.
        take = np.minimum(np.arange(start, start + batch_size), len(texts) - 1)
        output = encode({"text": ids[take], "text_mask": mask[take]})["text/embedding"]
        rows.append(output[: len(texts) - start])
    return np.concatenate(rows)
