"""Classification in which the modality that learns faster is slowed down."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from vljax.models.filters import modulated, zeros_of
from vljax.models.numerics import widened
from vljax.objectives.classification import Classification, Targets, classification_loss
from vljax.objectives.objective import Batch, Context, Result


def confidence(
    logits: Float[Array, "rows classes"],
    targets: Targets,
    valid: Bool[Array, "rows"],
    loss: str = "softmax",
) -> Float[Array, ""]:
    """The summed probability of the right classes (Peng et al. 2022, eq. 6 and the sums of eq. 7).

    Args:
      logits: scores of the classes by one modality alone.
      targets: weights of the classes, or the index of the class; -1, or weights that are all 0, for
        rows without a target, which do not count.
      valid: the rows that count.
      loss: softmax or sigmoid: how logits become probabilities.

    >>> logits = jnp.log(jnp.array([[0.8, 0.2], [0.5, 0.5]]))
    >>> round(float(confidence(logits, jnp.array([0, 1]), jnp.array([True, True]))), 4)
    1.3
    """
    logits = widened(logits)
    if jnp.issubdtype(targets.dtype, jnp.integer):
        targets = jax.nn.one_hot(targets, logits.shape[-1], dtype=logits.dtype)
    total = jnp.sum(targets, axis=-1)
    shares = targets / jnp.where(total > 0, total, 1)[:, None]
    found = jax.nn.softmax(logits) if loss == "softmax" else jax.nn.sigmoid(logits)
    each = jnp.sum(shares * found, axis=-1)
    return jnp.sum(jnp.where(valid & (total > 0), each, 0))


def coefficients(confidences: Float[Array, "streams"], alpha: float) -> Float[Array, "streams"]:
    """The factor of the gradient that reaches each modality (Peng et al. 2022, eq. 7 and 8).

    `1 - tanh(alpha * ratio)` where the ratio of the modality's confidence to that of the others, or
    to their mean if there are several, is above 1; else 1.

    >>> coefficients(jnp.array([2.0, 1.0]), alpha=0.5).tolist()
    [0.238..., 1.0]
    """
    count = len(confidences)
    others = (jnp.sum(confidences) - confidences) / (count - 1)
    ratio = confidences / jnp.maximum(others, jnp.finfo(confidences.dtype).tiny)
    return jnp.where(ratio > 1, 1 - jnp.tanh(alpha * ratio), 1)


@dataclass(frozen=True, kw_only=True)
class BalancedClassification(Classification, name="balanced_classification"):
    """Classification with on-the-fly gradient modulation, OGM-GE (Peng et al. 2022, eq. 6 to 10).

    What each stream says alone is measured by the model's own logits with the other streams set to
    zero. Of the more confident stream, the gradient that reaches its encoder is scaled down;
    fusion and head keep theirs. For the fusion by concatenation of the paper with a linear head,
    these logits are the paper's but for half of the bias, which is the same for both streams.

    It takes the place of `classification` in any recipe: `--objectives.answer
    balanced_classification --objectives.answer.streams "image question"`. Metrics: `accuracy`, and
    for each stream `confidence/STREAM` (the mean) and `modulation/STREAM` (the factor).

    >>> objective = BalancedClassification(
    ...     logits="answer/logits", targets="answer", streams=("image", "question")
    ... )
    >>> objective.reads()
    ('answer/logits', 'image/tokens', 'question/tokens')
    """

    streams: tuple[str, ...] = ("image", "text")
    """The streams to balance: those that the logits are computed from."""
    alpha: float = 0.1
    """Degree of modulation; 0 for none. The paper uses 0.1 to 1."""
    noise: float = 0.0
    """Standard deviation of Gaussian noise in the gradient that reaches each encoder, relative to
    that of this gradient: 1 as in the paper's generalization enhancement, which adds it to the
    gradients of convolution kernels. Here it is added at the stream, and drawn by example."""

    def problems(self) -> Iterator[tuple[str, str]]:
        yield from super().problems()
        if len(set(self.streams)) < 2 or len(set(self.streams)) < len(self.streams):
            yield "streams", f"must name two or more different streams, got {self.streams}"
        for name in ("alpha", "noise"):
            if getattr(self, name) < 0:
                yield name, f"must be at least 0, not {getattr(self, name)}"

    def reads(self) -> tuple[str, ...]:
        return (self.logits, *(f"{stream}/tokens" for stream in self.streams))

    def __call__(self, ctx: Context, batch: Batch, key: Array) -> Result:
        streams = {name: self._stream(ctx, name) for name in self.streams}
        targets = batch[self.targets]
        soft = not jnp.issubdtype(targets.dtype, jnp.integer)
        targets = targets.reshape(-1, *targets.shape[-1:]) if soft else targets.reshape(-1)
        valid = jnp.repeat(batch["valid"], len(targets) // len(batch["valid"]))

        def logits(given: dict[str, dict[str, Array]]) -> Array:
            # Streams with fewer rows first: a pass of given outputs takes its rows from the first.
            order = sorted(given, key=lambda name: len(given[name][f"{name}/tokens"]))
            every = {field: array for name in order for field, array in given[name].items()}
            made = ctx.run((self.logits,), given=every)[self.logits]
            return made.reshape(-1, made.shape[-1])

        fixed = jax.lax.stop_gradient(streams)
        sums = []
        for name in self.streams:
            alone = {other: own if other == name else zeros_of(own) for other, own in fixed.items()}
            found = jax.lax.stop_gradient(logits(alone))
            sums.append(confidence(found, targets, valid, self.loss))
        factors = coefficients(jnp.stack(sums), self.alpha)
        changed = {
            name: self._modulated(ctx, name, streams[name], factor)
            for name, factor in zip(self.streams, factors, strict=True)
        }
        loss, accuracy = classification_loss(
            logits(changed), targets, valid, self.loss, self.smoothing, self.empty_targets
        )
        counted = valid & (jnp.sum(targets, axis=-1) > 0 if soft else targets >= 0)
        count = jnp.maximum(jnp.sum(counted), 1)
        metrics = {"accuracy": accuracy}
        for name, total, factor in zip(self.streams, sums, factors, strict=True):
            metrics |= {f"confidence/{name}": total / count, f"modulation/{name}": factor}
        return Result(loss, metrics)

    def _stream(self, ctx: Context, name: str) -> dict[str, Array]:
        """All outputs of a stream, which need not have a pooled vector or positions."""
        fields = ("tokens", "mask", "pooled", "positions")
        made = ctx.run((f"{name}/tokens",))
        there = [f"{name}/{field}" for field in fields if f"{name}/{field}" in made]
        # Asked for by name: of a batch in parts, nothing else is kept.
        made = ctx.run(there)
        return {output: made[output] for output in there}

    def _modulated(
        self, ctx: Context, name: str, stream: dict[str, Array], factor: Array
    ) -> dict[str, Array]:
        changed = {}
        for output, array in stream.items():
            if not output.endswith(("/tokens", "/pooled")):
                changed[output] = array
                continue
            keys = _of_rows(ctx.row_keys(f"noise {output}"), len(array))
            changed[output] = modulated(array, factor, jnp.float32(self.noise), keys)
        return changed


def _of_rows(keys: Array, rows: int) -> Array:
    """A key for each row of a stream that may have several rows (texts) for each example."""
    count = rows // len(keys)
    each = jax.vmap(lambda key: jax.vmap(lambda i: jax.random.fold_in(key, i))(jnp.arange(count)))
    return each(keys).reshape(-1)
