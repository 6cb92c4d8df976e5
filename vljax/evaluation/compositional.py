"""Choices between right and wrong pairs of image and caption: SugarCrepe and Winoground."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Bool, Float

from vljax.config import UserError
from vljax.evaluation.evaluator import EvaluationData, Evaluator, embed_images, embed_texts
from vljax.evaluation.metrics.compositional import caption_choice, winoground
from vljax.evaluation.metrics.uncertainty import Sampled
from vljax.evaluation.predictor import Predictor
from vljax.models.numerics import Similarity, unit


@dataclass(frozen=True)
class CaptionChoice(Evaluator, name="caption_choice"):
    """Accuracy of choosing an image's first caption among all its captions, as in SugarCrepe.

    The other captions are wrong ones. Examples with one caption or an unreadable image are left
    out.

    Metrics in [0, 1]: `accuracy`; with classes also `accuracy/CLASS`, and `accuracy` is the mean
    over classes (the categories of SugarCrepe). Also the counts `examples` and `unreadable`.

    >>> from vljax.recipes import SugarCrepe
    >>> CaptionChoice(SugarCrepe("sugar-crepe/data")).reads()
    ('image/embedding', 'text/embedding')
    """

    headline = ("accuracy",)

    similarity: Similarity = "cosine"
    """How embeddings are compared; use the similarity of the objective."""
    ties: Literal["wrong", "right"] = "wrong"
    """Whether a wrong caption that is as near as the right one is an error, as in the official
    script; "right" as in CLIP_benchmark."""

    def reads(self) -> tuple[str, ...]:
        """The embeddings of both towers."""
        return "image/embedding", "text/embedding"

    def check(self, data: EvaluationData) -> None:
        """See `Evaluator.check`. Raises UserError if no example has two captions."""
        super().check(data)
        if not _captions_at_least(data, 2).any():
            raise UserError(
                f"no example of {self.source.full_name} has two captions, a right and a wrong one"
            )

    def measure(self, predictor: Predictor, data: EvaluationData) -> dict[str, float]:
        """See the class. Raises UserError if no image can be read."""
        images = embed_images(predictor, data, self.batch_size, where=_captions_at_least(data, 2))
        if not len(images.index):
            raise UserError(f"{self.source.full_name}: no image can be read")
        captions = [data.captions[i] for i in images.index]
        # Right captions occur with several wrong ones; each text is encoded once.
        texts = list(dict.fromkeys(text for own in captions for text in own))
        number = {text: i for i, text in enumerate(texts)}
        embeddings = embed_texts(predictor, data, texts, self.batch_size)
        first = embeddings[[number[own[0]] for own in captions]]
        right = pair_scores(images.embedding, first, self.similarity)
        image = np.repeat(np.arange(len(captions)), [len(own) - 1 for own in captions])
        other = embeddings[[number[text] for own in captions for text in own[1:]]]
        each = pair_scores(images.embedding[image], other, self.similarity)
        wrong = np.full(len(right), -np.inf)
        np.maximum.at(wrong, image, each)
        chosen = caption_choice(right, wrong, ties=self.ties)
        clusters, labels = data.images[images.index], data.labels[images.index]
        metrics: dict[str, float] = {}
        if data.class_names and (labels >= 0).all():
            metrics["accuracy"] = Sampled(chosen, clusters, "mean_per_class", labels)
            for label in np.unique(labels):
                own = labels == label
                name = data.class_names[label]
                metrics[f"accuracy/{name}"] = Sampled(chosen[own], clusters[own])
        else:
            metrics["accuracy"] = Sampled(chosen, clusters)
        return metrics | {"examples": float(len(chosen)), "unreadable": float(images.unreadable)}

    def inputs(self, data: EvaluationData) -> int:
        return len(data.labels) + len({text for own in data.captions for text in own})


@dataclass(frozen=True)
class WinogroundAccuracy(Evaluator, name="winoground"):
    """Text, image and group score of pairs of images, as in Winoground.

    Two examples in a row are a pair; each has an image and its own caption. Ties are wrong. Pairs
    with an unreadable image are left out.

    Metrics in [0, 1]: `text`, `image` and `group` (`metrics.compositional.winoground`). Also the
    counts `pairs` and `unreadable` (images).

    >>> from vljax.recipes import Winoground
    >>> WinogroundAccuracy(Winoground("winoground/examples.jsonl")).reads()
    ('image/embedding', 'text/embedding')
    """

    headline = ("text", "image", "group")

    similarity: Similarity = "cosine"
    """How embeddings are compared; use the similarity of the objective."""

    def reads(self) -> tuple[str, ...]:
        """The embeddings of both towers."""
        return "image/embedding", "text/embedding"

    def check(self, data: EvaluationData) -> None:
        """See `Evaluator.check`. Raises UserError unless examples with a caption come in pairs."""
        super().check(data)
        if len(data.labels) % 2 or not _captions_at_least(data, 1).all():
            raise UserError(
                f"{self.source.full_name}: two examples in a row must be a pair, and each must have"
                " a caption"
            )

    def measure(self, predictor: Predictor, data: EvaluationData) -> dict[str, float]:
        """See the class. Raises UserError if no pair of images can be read."""
        count = len(data.labels)
        images = embed_images(predictor, data, self.batch_size, where=np.ones(count, bool))
        readable = np.zeros(count, bool)
        readable[images.index] = True
        pairs = np.flatnonzero(readable.reshape(-1, 2).all(axis=1))
        if not len(pairs):
            raise UserError(f"{self.source.full_name}: no pair of images can be read")
        examples = (2 * pairs[:, None] + np.arange(2)).ravel()
        embedded = images.embedding[np.searchsorted(images.index, examples)]
        texts = [data.captions[i][0] for i in examples.tolist()]
        captions = embed_texts(predictor, data, texts, self.batch_size)
        by_pair = (len(pairs), 2, -1)
        scores = pair_scores(
            captions.reshape(by_pair)[:, :, None],
            embedded.reshape(by_pair)[:, None],
            self.similarity,
        )
        found = winoground(scores)
        metrics: dict[str, float] = {
            name: Sampled(values, pairs) for name, values in found._asdict().items()
        }
        return metrics | {"pairs": float(len(pairs)), "unreadable": float(images.unreadable)}

    def inputs(self, data: EvaluationData) -> int:
        return 2 * len(data.labels)


def pair_scores(
    left: Float[np.ndarray, "*left embed"],
    right: Float[np.ndarray, "*right embed"],
    similarity: Similarity,
) -> Float[np.ndarray, "*pairs"]:
    """The float64 similarity of each pair of embeddings; larger is nearer. Axes are broadcast.

    >>> pair_scores(np.array([[3.0, 4.0]]), np.array([[6.0, 8.0], [0.0, 5.0]]), "dot").tolist()
    [50.0, 20.0]
    """
    left, right = left.astype(np.float64), right.astype(np.float64)
    if similarity == "euclidean":
        return -np.square(left - right).sum(axis=-1)
    if similarity == "cosine":
        left, right = unit(left), unit(right)
    return (left * right).sum(axis=-1)


def _captions_at_least(data: EvaluationData, count: int) -> Bool[np.ndarray, " examples"]:
    return np.array([len(captions) >= count for captions in data.captions], bool)
