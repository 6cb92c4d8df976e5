"""The loss of attention that looks elsewhere than it should."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from vljax.models.numerics import widened
from vljax.objectives.objective import Batch, Context, Objective, Result

# Attention below it counts as this much, so that the loss of attention that is 0 is finite.
_LEAST = 1e-6


def attention_loss(
    attention: Float[Array, "rows heads queries keys"],
    words: Bool[Array, "rows queries"],
    targets: Float[Array, "rows keys"],
    valid: Bool[Array, "rows"],
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """The cross-entropy between the target and the attention, the mean over heads and words.

    Attention is supervised as by Qiao et al. 2018 ("Exploring human-like attention supervision in
    visual question answering"), here with a distribution that the data give.

    Args:
      attention: of each head and word to the keys; each word's sums to 1.
      words: the queries that are words, not padding.
      targets: weights of the keys, with the sum 1, or all 0 for rows that do not count.
      valid: the rows that count.

    Returns:
      The mean loss over the rows with a target, and the share of them whose most attended key has a
      positive weight; 0 without such rows.

    >>> attention = jnp.array([[[[0.5, 0.25, 0.25]]]])
    >>> words, targets = jnp.array([[True]]), jnp.array([[0.0, 0.5, 0.5]])
    >>> loss, hits = attention_loss(attention, words, targets, jnp.array([True]))
    >>> round(float(loss), 4), float(hits)
    (1.3863, 0.0)
    """
    count = jnp.maximum(jnp.sum(words, axis=1), 1)
    mean = jnp.einsum("rhqk,rq->rk", widened(attention), words) / count[:, None]
    mean = mean / attention.shape[1]
    counted = valid & (jnp.sum(targets, axis=-1) > 0)
    each = -jnp.sum(targets * jnp.log(jnp.maximum(mean, _LEAST)), axis=-1)
    hits = jnp.take_along_axis(targets, jnp.argmax(mean, axis=-1)[:, None], axis=-1)[:, 0] > 0
    number = jnp.maximum(jnp.sum(counted), 1)
    return (
        jnp.sum(jnp.where(counted, each, 0)) / number,
        jnp.sum(jnp.where(counted, hits, 0)) / number,
    )


@dataclass(frozen=True, kw_only=True)
class AttentionTarget(Objective, name="attention_target"):
    """Trains the last cross-attention of a fusion to look where the batch says.

    >>> objective = AttentionTarget(attention="fusion/attention", targets="answer_cells")
    >>> objective.reads(), objective.batch_entries()
    (('fusion/attention', 'question/mask'), ('answer_cells',))
    """

    attention: str = "fusion/attention"
    """Output with the attention, [rows, blocks, heads, queries, keys]; the last block counts."""
    words: str = "question/mask"
    """Output that says which queries are not padding, [rows, queries]."""
    targets: str = "answer_cells"
    """The batch entry with the weights of the keys, [..., keys]: one row, or as many as there are
    questions, for each example. A row of zeros does not count."""

    def reads(self) -> tuple[str, ...]:
        return (self.attention, self.words)

    def batch_entries(self) -> tuple[str, ...]:
        return (self.targets,)

    def check(
        self, outputs: Mapping[str, jax.ShapeDtypeStruct], batch: Mapping[str, jax.ShapeDtypeStruct]
    ) -> Iterator[tuple[str, str]]:
        attention, targets = outputs[self.attention].shape, batch[self.targets].shape
        if targets[-1] != attention[-1]:
            sizes = f"{targets[-1]} cells and {self.attention!r} has {attention[-1]} keys"
            yield "targets", f"{self.targets!r} has {sizes}; make them equal"

    def __call__(self, ctx: Context, batch: Batch, key: Array) -> Result:
        made = ctx.run(self.reads())
        attention = made[self.attention][:, -1]
        targets = batch[self.targets].reshape(-1, attention.shape[-1])
        valid = jnp.repeat(batch["valid"], len(targets) // len(batch["valid"]))
        words = made[self.words].reshape(len(targets), -1)
        loss, hits = attention_loss(attention, words, targets, valid)
        return Result(loss, {"accuracy": hits})
