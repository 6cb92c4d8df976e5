"""Contrastive learning of two towers: softmax (CLIP) and sigmoid (SigLIP)."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from vljax.models.similarity import Similarity
from vljax.objectives.negatives import Direction, sigmoid_negatives, softmax_negatives
from vljax.objectives.objective import Batch, Context, Objective, Result, Scalar
from vljax.objectives.pair_logits import ONE_DEVICE, Layout, Pairs, pairs


class Outcome(NamedTuple):
    """What a loss makes of the pairs."""

    loss: Float[Array, ""]
    accuracy: Float[Array, ""]
    """Share of valid images whose logit with their own text exceeds those with all other valid
    texts by more than rounding: ties count against the model, as in retrieval."""


def softmax_loss(of: Pairs, direction: Direction = "both", layout: Layout = ONE_DEVICE) -> Outcome:
    """Cross-entropy of each example against the batch (InfoNCE, van den Oord et al. 2018, eq. 4).

    Args:
      of: the pairs; examples that are not valid are no negatives either.
      direction: which modality asks; `both` is the mean of the two (Radford et al. 2021, fig. 3).
      layout: how the computation is laid out.

    Returns:
      The mean over valid examples; 0 if there are none.
    """
    negatives = softmax_negatives(of.images, of.texts, direction, layout)
    asked = [x for x in (negatives.image, negatives.text) if x is not None]
    # log(e^p + sum e^n) - p = log(1 + e^(log sum e^n - p)), exact also where p is far above all n.
    total = sum(jnp.sum(jax.nn.softplus(x - of.positive)) for x in asked)
    return Outcome(total / len(asked) / _count(of), _accuracy(of, negatives.best))


def sigmoid_loss(of: Pairs, layout: Layout = ONE_DEVICE) -> Outcome:
    """Binary cross-entropy of every pair (Zhai et al. 2023, eq. 1).

    Args:
      of: the pairs.
      layout: how the computation is laid out.

    Returns:
      The sum over valid pairs divided by the number of valid examples; 0 if there are none.
    """
    negatives = sigmoid_negatives(of.images, of.texts, layout)
    positives = jnp.sum(jnp.where(of.valid, jax.nn.softplus(-of.positive), 0))
    return Outcome((positives + negatives.total) / _count(of), _accuracy(of, negatives.best))


def _accuracy(of: Pairs, best: Float[Array, "batch"]) -> Float[Array, ""]:
    hits = of.valid & (of.positive > best + of.rounding)
    return jnp.sum(hits) / _count(of)


def _count(of: Pairs) -> Array:
    return jnp.maximum(jnp.sum(of.valid), 1)


@dataclass(frozen=True, kw_only=True)
class Contrastive(Objective):
    """What the two losses share: a learned scale of the similarities."""

    temperature: float
    """Initial value; similarities are divided by it. Learned as `logit_scale`, the log of 1/it."""
    max_scale: float | None = 100.0
    """The scale never exceeds it (Radford et al. 2021, section 2.5)."""
    similarity: Similarity = "cosine"
    """euclidean is the negative squared distance; it and dot are for embeddings of free length."""

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

    def _pairs(self, outputs: dict[str, Array], batch: Batch) -> Pairs:
        return pairs(
            outputs["image/embedding"],
            outputs["text/embedding"],
            batch["valid"],
            self.similarity,
            jnp.exp(outputs["logit_scale"]),
            outputs["logit_bias"] if "logit_bias" in self.scalars() else 0.0,
        )


@dataclass(frozen=True, kw_only=True)
class SoftmaxContrastive(Contrastive, name="softmax"):
    """Each image picks its text among the batch's, and the other way round (CLIP)."""

    temperature: float = 0.07
    """Initial value; similarities are divided by it. Learned as `logit_scale`, the log of 1/it."""
    direction: Direction = "both"
    """Which modality asks."""

    def __call__(self, ctx: Context, batch: Batch, rng: Array) -> Result:
        outputs = ctx.outputs()
        loss, accuracy = softmax_loss(self._pairs(outputs, batch), self.direction, Layout(ctx.mesh))
        scale = jnp.exp(outputs["logit_scale"])
        return Result(loss, {"accuracy": accuracy, "logit_scale": scale}, {})


@dataclass(frozen=True, kw_only=True)
class SigmoidContrastive(Contrastive, name="sigmoid"):
    """Each pair of image and text is classified as belonging together or not (SigLIP)."""

    temperature: float = 0.1
    """Initial value; similarities are divided by it. Learned as `logit_scale`, the log of 1/it."""
    max_scale: float | None = None
    """The scale never exceeds it; SigLIP sets no limit."""
    bias: float = -10.0
    """Initial value of the learned `logit_bias`; at 0, negatives would swamp the first steps."""

    def scalars(self) -> dict[str, Scalar]:
        return {**super().scalars(), "logit_bias": Scalar(self.bias)}

    def __call__(self, ctx: Context, batch: Batch, rng: Array) -> Result:
        outputs = ctx.outputs()
        loss, accuracy = sigmoid_loss(self._pairs(outputs, batch), Layout(ctx.mesh))
        metrics = {
            "accuracy": accuracy,
            "logit_scale": jnp.exp(outputs["logit_scale"]),
            "logit_bias": outputs["logit_bias"],
        }
        return Result(loss, metrics, {})
