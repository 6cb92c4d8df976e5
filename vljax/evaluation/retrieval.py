"""Image-to-text and text-to-image retrieval."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Int

from vljax.config import UserError
from vljax.evaluation.evaluator import Encode, EvaluationData, Evaluator, embed_images, embed_texts
from vljax.evaluation.metrics.ranking import (
    Similarity,
    chance_recall_at_k,
    embedding_ranks,
    median_rank,
    recall_at_k,
)

RECALL_AT = (1, 5, 10)


@dataclass(frozen=True)
class Retrieval(Evaluator, name="retrieval"):
    """How early a model finds the images of a caption and the caption of an image.

    Captions are distinct up to case and white space, and each stands once on the text side: text to
    image asks each distinct caption of all images, where every image with the caption is a hit;
    image to text asks each image of all distinct captions, where one is right. Examples without a
    readable image or with a blank caption take no part.

    Metrics, for each direction: `recall@K` and `recall@K_chance` (what a random ranking expects),
    in [0, 1], and `median_rank`, from 1. Beside them the counts `examples`, `captions` (distinct)
    and `unreadable`.
    """

    similarity: Similarity = "cosine"
    """What the model was trained to compare embeddings by."""

    def check(self, data: EvaluationData) -> None:
        """See `Evaluator.check`. Raises UserError if no example has a caption."""
        super().check(data)
        if not captioned(data).any():
            raise UserError(f"{self.prefix}: no example has a caption")

    def measure(self, encode: Encode, data: EvaluationData) -> dict[str, float]:
        """See the class. Raises UserError if no readable example has a caption."""
        images = embed_images(encode, data, self.batch_size, where=captioned(data))
        if not len(images.index):
            raise UserError(f"{self.prefix}: no readable example has a caption")
        captions, groups = distinct_captions([data.captions[i] for i in images.index])
        texts = embed_texts(encode, data, captions, self.batch_size)
        own = np.arange(len(captions))
        image_to_text = embedding_ranks(
            images.embedding, texts, groups, own, similarity=self.similarity
        )
        text_to_image = embedding_ranks(
            texts, images.embedding, own, groups, similarity=self.similarity
        )
        return {
            **_direction("image_to_text", image_to_text, np.ones_like(groups), len(captions)),
            **_direction("text_to_image", text_to_image, np.bincount(groups), len(groups)),
            "examples": float(len(groups)),
            "captions": float(len(captions)),
            "unreadable": float(images.unreadable),
        }


def captioned(data: EvaluationData) -> Bool[np.ndarray, " examples"]:
    """Which examples have a caption that is not blank."""
    return np.array([bool(caption.strip()) for caption in data.captions], bool)


def distinct_captions(captions: list[str]) -> tuple[list[str], Int[np.ndarray, " captions"]]:
    """The captions that differ in more than case and white space, and which of them each one is.

    A caption is given as it is first spelt, in the order of first appearance.
    """
    number: dict[str, int] = {}
    first: list[str] = []
    groups = np.zeros(len(captions), np.int64)
    for i, caption in enumerate(captions):
        key = " ".join(caption.lower().split())
        if key not in number:
            number[key] = len(number)
            first.append(caption)
        groups[i] = number[key]
    return first, groups


def _direction(
    name: str,
    ranks: Int[np.ndarray, " queries"],
    positives: Int[np.ndarray, " queries"],
    candidates: int,
) -> dict[str, float]:
    metrics = {f"{name}/median_rank": median_rank(ranks)}
    for k in RECALL_AT:
        metrics[f"{name}/recall@{k}"] = recall_at_k(ranks, k)
        metrics[f"{name}/recall@{k}_chance"] = chance_recall_at_k(positives, candidates, k)
    return metrics
