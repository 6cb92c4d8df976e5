"""Losses of classes: of an answer, a label, or what each cell of a grid shows."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from vljax.models.numerics import widened
from vljax.objectives.objective import Batch, Context, Objective, Result

Targets = Float[Array, "rows classes"] | Int[Array, "rows"]


def classification_loss(
    logits: Float[Array, "rows classes"],
    targets: Targets,
    valid: Bool[Array, "rows"],
    loss: Literal["softmax", "sigmoid"] = "softmax",
    smoothing: float = 0.0,
    empty_targets: Literal["ignored", "negative"] = "ignored",
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """The mean loss over the rows that have a target, and the accuracy there.

    Args:
      logits: scores of the classes.
      targets: weights of the classes, or the index of the class; -1, or weights that are all 0, for
        rows without a target.
      valid: the rows that count.
      loss: softmax is the cross-entropy, - sum of w log p, with weights divided by their sum.
        sigmoid is the binary cross-entropy summed over classes (Teney et al. 2018, section 3.4).
      smoothing: share of the target that is spread over all classes (Szegedy et al. 2016).
      empty_targets: whether a row whose weights are all 0 has no target, or none of the classes.

    Returns:
      Loss and accuracy, 0 if no row counts. The accuracy is the weight of the class with the
      highest score; of a class that shares the highest score, it is 0.

    >>> logits = jnp.array([[2.0, 0.0], [0.0, 0.0]])
    >>> loss, accuracy = classification_loss(logits, jnp.array([0, -1]), jnp.array([True, True]))
    >>> round(float(loss), 4), float(accuracy)
    (0.1269, 1.0)
    """
    logits, classes = widened(logits), logits.shape[-1]
    if jnp.issubdtype(targets.dtype, jnp.integer):
        targets = jax.nn.one_hot(targets, classes, dtype=logits.dtype)
    total = jnp.sum(targets, axis=-1, keepdims=True)
    counted = valid if empty_targets == "negative" else valid & (total[:, 0] > 0)
    highest = logits == jnp.max(logits, axis=-1, keepdims=True)
    alone = jnp.sum(highest, axis=-1) == 1
    accuracy = jnp.where(alone, jnp.sum(jnp.where(highest, targets, 0), axis=-1), 0)
    if loss == "softmax":
        shares = targets / jnp.where(total > 0, total, 1)
        shares = (1 - smoothing) * shares + smoothing / classes
        each = -jnp.sum(shares * jax.nn.log_softmax(logits), axis=-1)
    else:
        targets = (1 - smoothing) * targets + smoothing / 2
        each = jnp.sum(jax.nn.softplus(logits) - targets * logits, axis=-1)
    count = jnp.maximum(jnp.sum(counted), 1)
    return (
        jnp.sum(jnp.where(counted, each, 0)) / count,
        jnp.sum(jnp.where(counted, accuracy, 0)) / count,
    )


@dataclass(frozen=True, kw_only=True)
class Classification(Objective, name="classification"):
    """Compares logits of a classifier with the targets of a batch entry.

    >>> objective = Classification(logits="answer/logits", targets="answer")
    >>> objective.reads(), objective.batch_entries()
    (('answer/logits',), ('answer',))
    """

    logits: str
    """The output to train, [..., classes]."""
    targets: str
    """The batch entry with the targets: weights [..., classes], or indices [...] with -1 for none.
    It may have several targets for each example, as many as the logits."""
    loss: Literal["softmax", "sigmoid"] = "softmax"
    """softmax if one class is right, sigmoid if several may be."""
    smoothing: float = 0.0
    """Share of each target that is spread over all classes."""
    empty_targets: Literal["ignored", "negative"] = "ignored"
    """What weights that are all 0 mean: that the answer is not known, or that the example has none
    of the labels (`EncodeTags`; with sigmoid only)."""

    def problems(self) -> Iterator[tuple[str, str]]:
        if self.empty_targets == "negative" and self.loss == "softmax":
            yield "empty_targets", "negative needs several labels; set loss to sigmoid"
        if not 0 <= self.smoothing < 1:
            yield "smoothing", f"must be in [0, 1), not {self.smoothing}"

    def reads(self) -> tuple[str, ...]:
        return (self.logits,)

    def batch_entries(self) -> tuple[str, ...]:
        return (self.targets,)

    def check(
        self, outputs: Mapping[str, jax.ShapeDtypeStruct], batch: Mapping[str, jax.ShapeDtypeStruct]
    ) -> Iterator[tuple[str, str]]:
        logits, targets = outputs[self.logits].shape, batch[self.targets]
        rows = math.prod(logits[:-1])
        if jnp.issubdtype(targets.dtype, jnp.integer):
            if math.prod(targets.shape) != rows:
                sizes = f"{targets.shape[1:]} targets for logits of shape {logits[1:]}"
                yield "targets", f"{self.targets!r} has {sizes}; make their numbers equal"
        elif targets.shape[-1] != logits[-1]:
            sizes = f"{targets.shape[-1]} classes and {self.logits!r} {logits[-1]}"
            yield "targets", f"{self.targets!r} has {sizes}; make them equal"
        elif math.prod(targets.shape[:-1]) != rows:
            sizes = f"{math.prod(targets.shape[:-1])} rows and {self.logits!r} {rows}"
            yield "targets", f"{self.targets!r} has {sizes}; make them equal"

    def __call__(self, ctx: Context, batch: Batch, key: Array) -> Result:
        logits = ctx.run((self.logits,))[self.logits]
        logits, targets = logits.reshape(-1, logits.shape[-1]), batch[self.targets]
        soft = not jnp.issubdtype(targets.dtype, jnp.integer)
        targets = targets.reshape(-1, *targets.shape[-1:]) if soft else targets.reshape(-1)
        valid = jnp.repeat(batch["valid"], len(logits) // len(batch["valid"]))
        loss, accuracy = classification_loss(
            logits, targets, valid, self.loss, self.smoothing, self.empty_targets
        )
        return Result(loss, {"accuracy": accuracy})
