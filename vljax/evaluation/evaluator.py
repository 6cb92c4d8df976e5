"""The evaluator interface: an encoder and a data set in, named numbers out."""

from __future__ import annotations

import abc
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import jax
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Bool, Float, Int, Int32, UInt8

from vljax.config import Component, UserError, setting
from vljax.data.pipeline.evaluation_set import EvaluationSet
from vljax.data.records import Source
from vljax.data.sources import Mixture
from vljax.parallel import rows
from vljax.parallel.rules import batch_sharding, replicated

Batch = Mapping[str, Any]
"""Whole arrays of the host (NumPy), or global ones that are on the devices already (JAX)."""


@runtime_checkable
class Encode(Protocol):
    """A model with its variables bound.

    Takes a batch with some modalities, `image` uint8[B,H,W,3] (or patches, with `image_mask` and
    what else `Patchify` makes) or `text` int32[B,L] with `text_mask`
    bool[B,L], and returns host arrays for these: `image/embedding` or `text/embedding`
    float32[B,D]. B is the evaluator's `batch_size` in every call: one compile a modality.
    """

    def __call__(self, batch: Batch, /) -> dict[str, np.ndarray]: ...


def of_images(batch: Batch) -> dict[str, Any]:
    """The arrays of a batch that images are: `image`, and of patches `image_mask` and the like."""
    return {k: v for k, v in batch.items() if k == "image" or k.startswith("image_")}


@runtime_checkable
class EvaluationData(Protocol):
    """N examples in a fixed order, each seen once."""

    @property
    def captions(self) -> list[str]:
        """The first caption of each example."""
        ...

    @property
    def labels(self) -> Int[np.ndarray, " examples"]:
        """The class of each example, -1 where it has none."""
        ...

    @property
    def class_names(self) -> tuple[str, ...]:
        """The names of the classes."""
        ...

    def batches(self, batch_size: int, /) -> Iterator[Batch]:
        """All examples in order; `valid` is False for unreadable images and the last padding."""
        ...

    def tokenizer(
        self, texts: list[str], /
    ) -> tuple[Int[np.ndarray, "texts length"], Bool[np.ndarray, "texts length"]]:
        """Token ids and which of them are tokens."""
        ...

    def thumbnail(self, index: int, size: int, /) -> UInt8[np.ndarray, "size size 3"]:
        """The image of an example for people to look at."""
        ...


@dataclass(frozen=True)
class Evaluator(Component, abc.ABC):
    """Measures a model on the data of a source; a member implements `measure`."""

    source: Source
    """Where the examples come from."""
    batch_size: int = setting(64, identity=False)
    """Examples encoded at a time; no result depends on it."""

    def problems(self) -> Iterable[tuple[str, str]]:
        """What is wrong with the fields."""
        if self.batch_size < 1:
            yield "batch_size", f"must be at least 1, got {self.batch_size}"
        if isinstance(self.source, Mixture):
            yield "source", "is a mixture, which is for training; evaluate on one of its sources"

    @property
    def prefix(self) -> str:
        """`EVALUATOR/DATASET/SPLIT`, how metric names begin."""
        return f"{self.type_name}/{self.source.dataset}/{self.source.split_name}"

    def check(self, data: EvaluationData) -> None:
        """Looks whether the data can be measured at all, before anything is computed.

        Images are not read: that none is readable shows only in `measure`.

        Raises:
          UserError: if the data lacks what the metrics are about.
        """
        if not len(data.labels):
            raise UserError(f"{self.prefix}: {self.source.full_name} has no examples")

    def __call__(self, encode: Encode, data: EvaluationData) -> dict[str, float]:
        """The metrics of a model, named `EVALUATOR/DATASET/SPLIT/METRIC`.

        Raises:
          UserError: if the data holds nothing that can be measured.
        """
        return {
            f"{self.prefix}/{name}": value for name, value in self.measure(encode, data).items()
        }

    @abc.abstractmethod
    def measure(self, encode: Encode, data: EvaluationData) -> dict[str, float]:
        """The metrics by their names without the prefix."""


# --- An evaluation set of which each process reads its own part -----------------------------------


class SplitSet:
    """Like the `EvaluationSet` it is made of, row by row.

    Images of a batch are global arrays, of which a process decodes the rows that its devices hold.
    All processes iterate at the same time.
    """

    def __init__(self, whole: EvaluationSet, mesh: Mesh) -> None:
        self._whole, self._sharding = whole, batch_sharding(mesh)
        self._gather = jax.jit(lambda array: array, out_shardings=replicated(mesh))

    @property
    def captions(self) -> list[str]:
        """See `EvaluationSet`."""
        return self._whole.captions

    @property
    def labels(self) -> Int32[np.ndarray, " examples"]:
        """See `EvaluationSet`."""
        return self._whole.labels

    @property
    def class_names(self) -> tuple[str, ...]:
        """See `EvaluationSet`."""
        return self._whole.class_names

    def tokenizer(
        self, texts: list[str]
    ) -> tuple[Int32[np.ndarray, "texts length"], Bool[np.ndarray, "texts length"]]:
        """See `EvaluationSet`."""
        return self._whole.tokenizer(texts)

    def thumbnail(self, index: int, size: int) -> UInt8[np.ndarray, "{size} {size} 3"]:
        """See `EvaluationSet`."""
        return self._whole.thumbnail(index, size)

    def batches(self, batch_size: int) -> Iterator[Batch]:
        """What there is of images on the devices, and `valid` of all rows on the host."""
        wanted = rows.local_parts(self._sharding, batch_size)

        def open_part(part: int, count: int) -> Iterator[dict[str, np.ndarray]]:
            return self._whole.batches(batch_size, part, count)

        for batch in rows.read_parts(open_part, wanted):
            own = {**of_images(batch), "valid": batch["valid"]}
            split = rows.global_arrays(own, self._sharding, batch_size)
            yield {**of_images(split), "valid": np.asarray(self._gather(split["valid"]))}


# --- Embeddings of whole data sets, encoded in batches of one size --------------------------------


@dataclass(frozen=True)
class ImageEmbeddings:
    """The embeddings of the images that could be read."""

    embedding: Float[np.ndarray, "images embed"]
    """One row an image, in the order of the data."""
    index: Int[np.ndarray, " images"]
    """The position of each row's example in the data."""
    unreadable: int
    """How many of the examples asked for had no readable image."""


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
