"""Contrastive losses of image and text embeddings: softmax (CLIP) and sigmoid (SigLIP)."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from vljax.models.numerics import Similarity
from vljax.objectives.objective import Batch, Context, Objective, Result, Scalar
from vljax.objectives.pair_logits import (
    ONE_DEVICE,
    Direction,
    PairLogits,
    Tiling,
    pair_logits,
    sigmoid_negatives,
    softmax_negatives,
)


class LossAndAccuracy(NamedTuple):
    """The loss of a batch, and the accuracy of its images."""

    loss: Float[Array, ""]
    accuracy: Float[Array, ""]
    """Share of the valid images that match their own text best. Its logit must exceed those of all
    other valid texts by more than rounding: a tie counts against the model, as in retrieval."""


def softmax_loss(
    logits: PairLogits, direction: Direction = "both", tiling: Tiling = ONE_DEVICE
) -> LossAndAccuracy:
    """Cross-entropy of each example against the batch (InfoNCE, van den Oord et al. 2018, eq. 4).

    Args:
      logits: of all pairs. Examples that are not valid are not used as negatives either.
      direction: the modality that is classified; `both` is the mean of the two (Radford et al.
        2021, fig. 3).
      tiling: how the logits are split.

    Returns:
      The mean over valid examples; 0 if there are none.
    """
    negatives = softmax_negatives(logits.images, logits.texts, direction, tiling)
    used = [x for x in (negatives.image, negatives.text) if x is not None]
    # log(e^p + sum e^n) - p = log(1 + e^(log sum e^n - p)), exact also where p is far above all n.
    total = sum(jnp.sum(jax.nn.softplus(x - logits.positive)) for x in used)
    loss = total / len(used) / _count(logits)
    return LossAndAccuracy(loss, _accuracy(logits, negatives.best))


def sigmoid_loss(logits: PairLogits, tiling: Tiling = ONE_DEVICE) -> LossAndAccuracy:
    """Binary cross-entropy of every pair (Zhai et al. 2023, eq. 1).

    Args:
      logits: of all pairs.
      tiling: how the logits are split.

    Returns:
      The sum over valid pairs divided by the number of valid examples; 0 if there are none.
    """
    negatives = sigmoid_negatives(logits.images, logits.texts, tiling)
    positives = jnp.sum(jnp.where(logits.valid, jax.nn.softplus(-logits.positive), 0))
    loss = (positives + negatives.total) / _count(logits)
    return LossAndAccuracy(loss, _accuracy(logits, negatives.best))


def _accuracy(logits: PairLogits, best_negative: Float[Array, "batch"]) -> Float[Array, ""]:
    hits = logits.valid & (logits.positive > best_negative + logits.rounding)
    return jnp.sum(hits) / _count(logits)


def _count(logits: PairLogits) -> Array:
    return jnp.maximum(jnp.sum(logits.valid), 1)


@dataclass(frozen=True, kw_only=True)
class Contrastive(Objective):
    """Base of contrastive objectives: similarities with a learned scale."""

    temperature: float
    """Initial value; similarities are divided by it. Learned as `logit_scale`, the log of 1/it."""
    max_scale: float | None = 100.0
    """Upper limit of the scale (Radford et al. 2021, section 2.5)."""
    similarity: Similarity = "cosine"
    """`euclidean` is the negative squared distance; like `dot`, it uses the embeddings' lengths."""

    def problems(self) -> Iterator[tuple[str, str]]:
        if self.temperature <= 0:
            yield "temperature", f"must be positive, not {self.temperature}"
        elif self.max_scale is not None and self.max_scale <= 0:
            yield "max_scale", f"must be positive, or None for no limit, not {self.max_scale}"
        elif self.max_scale is not None and 1 / self.temperature > self.max_scale:
            yield "temperature", f"1/{self.temperature} exceeds max_scale ({self.max_scale})"

    def scalars(self) -> dict[str, Scalar]:
        high = math.inf if self.max_scale is None else math.log(self.max_scale)
        return {"logit_scale": Scalar(-math.log(self.temperature), high=high)}

    def reads(self) -> tuple[str, ...]:
        return ("image/embedding", "text/embedding")

    def _logits(self, outputs: dict[str, Array], batch: Batch) -> PairLogits:
        return pair_logits(
            outputs["image/embedding"],
            outputs["text/embedding"],
            batch["valid"],
            self.similarity,
            jnp.exp(outputs["logit_scale"]),
            outputs["logit_bias"] if "logit_bias" in self.scalars() else 0.0,
        )


@dataclass(frozen=True, kw_only=True)
class SoftmaxContrastive(Contrastive, name="softmax"):
    """CLIP's loss: each image is classified among the texts of the batch, and each text likewise.

    >>> objective = SoftmaxContrastive(temperature=0.05, direction="image_to_text")
    >>> objective.reads()
    ('image/embedding', 'text/embedding')
    >>> round(objective.scalars()["logit_scale"].initial, 4)  # the log of 1 / 0.05
    2.9957
    """

    temperature: float = 0.07
    """Initial value; similarities are divided by it. Learned as `logit_scale`, the log of 1/it."""
    direction: Direction = "both"
    """Whether images are classified among texts, texts among images, or both."""

    def __call__(self, ctx: Context, batch: Batch, key: Array) -> Result:
        outputs = ctx.run((*self.reads(), *self.scalars()))
        logits = self._logits(outputs, batch)
        loss, accuracy = softmax_loss(logits, self.direction, Tiling(ctx.mesh))
        scale = jnp.exp(outputs["logit_scale"])
        return Result(loss, {"accuracy": accuracy, "logit_scale": scale})


@dataclass(frozen=True, kw_only=True)
class SigmoidContrastive(Contrastive, name="sigmoid"):
    """SigLIP's loss: each pair of an image and a text is classified as matching or not.

    >>> objective = SigmoidContrastive(bias=-5.0)
    >>> sorted(objective.scalars())
    ['logit_bias', 'logit_scale']
    >>> objective.scalars()["logit_bias"].initial
    -5.0
    """

    temperature: float = 0.1
    """Initial value; similarities are divided by it. Learned as `logit_scale`, the log of 1/it."""
    max_scale: float | None = None
    """Upper limit of the scale; SigLIP sets none."""
    bias: float = -10.0
    """Initial value of the learned `logit_bias`. At 0, the many negatives would dominate the first
    steps."""

    def scalars(self) -> dict[str, Scalar]:
        return {**super().scalars(), "logit_bias": Scalar(self.bias)}

    def __call__(self, ctx: Context, batch: Batch, key: Array) -> Result:
        outputs = ctx.run((*self.reads(), *self.scalars()))
        loss, accuracy = sigmoid_loss(self._logits(outputs, batch), Tiling(ctx.mesh))
        metrics = {
            "accuracy": accuracy,
            "logit_scale": jnp.exp(outputs["logit_scale"]),
            "logit_bias": outputs["logit_bias"],
        }
        return Result(loss, metrics)
