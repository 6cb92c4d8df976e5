"""Contrastive learning of two towers: softmax (CLIP) and sigmoid (SigLIP)."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from vljax.models.heads import unit
from vljax.objectives.objective import Batch, Context, Objective, Result, Scalar

Similarity = Literal["cosine", "dot", "euclidean"]
Direction = Literal["both", "image_to_text", "text_to_image"]


def similarities(
    image: Float[Array, "images dim"], text: Float[Array, "texts dim"], similarity: Similarity
) -> Float[Array, "images texts"]:
    """All pairs: cosine, dot product, or negative squared Euclidean distance.

    The last is the similarity of Chou & Alam 2024 (Embedding Geometries of CLIP).

    Computed in float32 whatever the inputs are.
    """
    image, text = image.astype(jnp.float32), text.astype(jnp.float32)
    if similarity == "cosine":
        return _inner(unit(image), unit(text))
    if similarity == "dot":
        return _inner(image, text)
    squares = jnp.sum(image**2, axis=1)[:, None] + jnp.sum(text**2, axis=1)[None, :]
    return -jnp.maximum(squares - 2 * _inner(image, text), 0)


def _inner(image: Array, text: Array) -> Array:
    return jnp.einsum("id,td->it", image, text, precision=jax.lax.Precision.HIGHEST)


def softmax_loss(
    logits: Float[Array, "batch batch"], valid: Bool[Array, "batch"], direction: Direction = "both"
) -> Float[Array, ""]:
    """Cross-entropy of each example against the batch (InfoNCE, van den Oord et al. 2018, eq. 4).

    Args:
      logits: scaled similarities, images in rows and texts in columns; pairs on the diagonal.
      valid: rows and columns that count; the others are no negatives either.
      direction: which modality asks; `both` is the mean of the two (Radford et al. 2021, fig. 3).

    Returns:
      The mean over valid examples; 0 if there are none.
    """
    pairs = valid[:, None] & valid[None, :]
    # An invalid row keeps its diagonal, so that its log-sum-exp (and gradient) stays finite.
    logits = jnp.where(pairs | jnp.eye(len(valid), dtype=bool), logits, -jnp.inf)
    positive = jnp.diagonal(logits)
    axes = {"image_to_text": (1,), "text_to_image": (0,), "both": (1, 0)}[direction]
    losses = [jax.nn.logsumexp(logits, axis=axis) - positive for axis in axes]
    total = sum(jnp.sum(jnp.where(valid, loss, 0)) for loss in losses) / len(axes)
    return total / jnp.maximum(jnp.sum(valid), 1)


def sigmoid_loss(
    logits: Float[Array, "batch batch"], valid: Bool[Array, "batch"]
) -> Float[Array, ""]:
    """Binary cross-entropy of every pair (Zhai et al. 2023, eq. 1).

    Args:
      logits: scaled and biased similarities; pairs on the diagonal.
      valid: rows and columns that count.

    Returns:
      The sum over valid pairs divided by the number of valid examples; 0 if there are none.
    """
    labels = 2 * jnp.eye(len(valid), dtype=logits.dtype) - 1
    losses = -jax.nn.log_sigmoid(labels * logits)
    pairs = valid[:, None] & valid[None, :]
    return jnp.sum(jnp.where(pairs, losses, 0)) / jnp.maximum(jnp.sum(valid), 1)


def accuracy(logits: Float[Array, "batch batch"], valid: Bool[Array, "batch"]) -> Float[Array, ""]:
    """Share of valid images whose own text has the highest logit in the batch."""
    best = jnp.argmax(jnp.where(valid[None, :], logits, -jnp.inf), axis=1)
    hits = (best == jnp.arange(len(valid))) & valid
    return jnp.sum(hits) / jnp.maximum(jnp.sum(valid), 1)


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

    def _scaled(self, outputs: dict[str, Array]) -> Float[Array, "batch batch"]:
        image, text = outputs["image/embedding"], outputs["text/embedding"]
        return jnp.exp(outputs["logit_scale"]) * similarities(image, text, self.similarity)


@dataclass(frozen=True, kw_only=True)
class SoftmaxContrastive(Contrastive, name="softmax"):
    """Each image picks its text among the batch's, and the other way round (CLIP)."""

    temperature: float = 0.07
    """Initial value; similarities are divided by it. Learned as `logit_scale`, the log of 1/it."""
    direction: Direction = "both"
    """Which modality asks."""

    def __call__(self, ctx: Context, batch: Batch, rng: Array) -> Result:
        outputs = ctx.outputs()
        logits = self._scaled(outputs)
        loss = softmax_loss(logits, batch["valid"], self.direction)
        scale = jnp.exp(outputs["logit_scale"])
        metrics = {"accuracy": accuracy(logits, batch["valid"]), "logit_scale": scale}
        return Result(loss, metrics, {})


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
        logits = self._scaled(outputs) + outputs["logit_bias"]
        loss = sigmoid_loss(logits, batch["valid"])
        metrics = {
            "accuracy": accuracy(logits, batch["valid"]),
            "logit_scale": jnp.exp(outputs["logit_scale"]),
            "logit_bias": outputs["logit_bias"],
        }
        return Result(loss, metrics, {})
