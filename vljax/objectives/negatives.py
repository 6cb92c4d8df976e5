"""What softmax losses need to know of the pairs that do not belong together.

No logits are kept for the backward pass: it computes them again from the embeddings, as attention
does in Dao et al. 2022 (FlashAttention, section 3.1).
"""

from __future__ import annotations

import functools
from functools import partial
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from vljax.objectives.pair_logits import Layout, Side, plus, slopes_of_sides, sweep, zeros
from vljax.parallel.per_device import on_batch_shards

Direction = Literal["both", "image_to_text", "text_to_image"]
Vector = Float[Array, "batch"]


class SoftmaxNegatives(NamedTuple):
    """Of the logits of each example with those that it does not belong to."""

    image: Vector | None
    """Log-sum-exp over the texts; None where the direction has no use for it."""
    text: Vector | None
    """Log-sum-exp over the images; None where the direction has no use for it."""
    best: Vector
    """The largest logit of each image; no gradient goes through it."""


class _Sum(NamedTuple):
    """A sum of exponentials that cannot overflow: `total * exp(largest)`."""

    largest: Vector
    total: Vector

    def log(self) -> Vector:
        return self.largest + jnp.log(self.total)


def _sum(logits: Float[Array, "images texts"], axis: int) -> _Sum:
    largest = jnp.max(logits, axis=axis)
    powers = jnp.exp(logits - jnp.expand_dims(_finite(largest), axis))
    return _Sum(largest, jnp.sum(powers, axis=axis))


def _add(a: _Sum | None, b: _Sum | None) -> _Sum | None:
    if a is None or b is None:
        return None
    largest = jnp.maximum(a.largest, b.largest)
    shift = _finite(largest)
    total = a.total * jnp.exp(a.largest - shift) + b.total * jnp.exp(b.largest - shift)
    return _Sum(largest, total)


def _finite(x: Array) -> Array:
    """Zero for minus infinity, the maximum of nothing, from which nothing can be subtracted."""
    return jnp.where(x == -jnp.inf, 0, x)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def softmax_negatives(
    images: Side, texts: Side, direction: Direction, layout: Layout
) -> SoftmaxNegatives:
    """Log-sum-exps of the negatives' logits; minus infinity for an example without negatives."""

    def local(images: Side, texts: Side) -> SoftmaxNegatives:
        def tile(
            mine: tuple[Vector, _Sum | None], _: Any, logits: Float[Array, "images texts"]
        ) -> tuple[tuple[Vector, _Sum | None], _Sum | None]:
            best, rows = mine
            best = jnp.maximum(best, jnp.max(logits, axis=1))
            rows = rows and _add(rows, _sum(logits, axis=1))
            return (best, rows), None if direction == "image_to_text" else _sum(logits, axis=0)

        none = jnp.full_like(images.offset, -jnp.inf)
        nothing = None if direction == "text_to_image" else _Sum(none, zeros(none))
        mine = none, nothing
        (best, rows), columns = sweep(tile, mine, images, (texts, None), _add, layout)
        return SoftmaxNegatives(rows and rows.log(), columns and columns.log(), best)

    return on_batch_shards(local, layout.mesh)(images, texts)


def _softmax_forward(
    images: Side, texts: Side, direction: Direction, layout: Layout
) -> tuple[SoftmaxNegatives, Any]:
    result = softmax_negatives(images, texts, direction, layout)
    return result, (images, texts, result.image, result.text)


def _softmax_backward(
    direction: Direction, layout: Layout, residuals: Any, slope: SoftmaxNegatives
) -> tuple[Side, Side]:
    def local(images: Side, texts: Side, rows: _Share, columns: _Share) -> tuple[Side, Side]:
        def tile(mine: Side, block: Any, logits: Float[Array, "images texts"]) -> tuple[Side, Side]:
            texts, columns = block
            image, text = slopes_of_sides(_slope(logits, rows, columns), images, texts)
            return plus(mine, image), text

        return sweep(tile, zeros(images), images, (texts, columns), plus, layout)

    images, texts, image, text = residuals
    rows, columns = _Share(image, slope.image), _Share(text, slope.text)
    return on_batch_shards(local, layout.mesh)(images, texts, rows, columns)


class _Share(NamedTuple):
    """Log-sum-exps and their slopes."""

    total: Vector | None
    slope: Vector | None


def _slope(
    logits: Float[Array, "images texts"], rows: _Share, columns: _Share
) -> Float[Array, "images texts"]:
    """Of a logit: its part in each log-sum-exp that it is in, times the slope of that."""
    slopes = []
    for (total, slope), axis in ((rows, 1), (columns, 0)):
        if total is not None and slope is not None:
            powers = jnp.exp(logits - jnp.expand_dims(_finite(total), axis))
            slopes.append(powers * jnp.expand_dims(slope, axis))
    return functools.reduce(jnp.add, slopes)


softmax_negatives.defvjp(_softmax_forward, _softmax_backward)


# --- What the sigmoid loss needs to know of the pairs that do not belong together -----------------
# No logits are kept for the backward pass: the gradients are computed on the way forward.


class SigmoidNegatives(NamedTuple):
    """Of the logits of each image with the texts that it does not belong to."""

    total: Float[Array, ""]
    """The sum of log(1 + exp(logit)) over all images and texts."""
    best: Float[Array, "batch"]
    """The largest logit of each image; no gradient goes through it."""


@partial(jax.custom_vjp, nondiff_argnums=(2,))
def sigmoid_negatives(images: Side, texts: Side, layout: Layout) -> SigmoidNegatives:
    """The losses of the negatives, that is of -log sigmoid(-logit), summed."""
    return _sigmoid(images, texts, layout, gradients=False)[0]


def _sigmoid(
    images: Side, texts: Side, layout: Layout, *, gradients: bool
) -> tuple[SigmoidNegatives, tuple[Side | None, Side | None]]:
    def local(images: Side, texts: Side) -> Any:
        def tile(mine: Any, block: Any, logits: Float[Array, "images texts"]) -> tuple[Any, Any]:
            losses, best, slope = mine
            losses += jnp.sum(jax.nn.softplus(logits), axis=1)
            best = jnp.maximum(best, jnp.max(logits, axis=1))
            if not gradients:
                return (losses, best, None), None
            image, text = slopes_of_sides(jax.nn.sigmoid(logits), images, block[0])
            return (losses, best, plus(slope, image)), text

        none = jnp.full_like(images.offset, -jnp.inf)
        mine = zeros(none), none, zeros(images) if gradients else None
        return sweep(tile, mine, images, (texts, None), plus, layout)

    (losses, best, image), text = on_batch_shards(local, layout.mesh)(images, texts)
    return SigmoidNegatives(jnp.sum(losses), best), (image, text)


def _sigmoid_forward(
    images: Side, texts: Side, layout: Layout
) -> tuple[SigmoidNegatives, tuple[Side | None, Side | None]]:
    # The only result with a gradient is one number, so all gradients are known up to its slope.
    return _sigmoid(images, texts, layout, gradients=True)


def _sigmoid_backward(
    layout: Layout, residuals: tuple[Side, Side], slope: SigmoidNegatives
) -> tuple[Side, Side]:
    return jax.tree.map(lambda x: slope.total * x, residuals)


sigmoid_negatives.defvjp(_sigmoid_forward, _sigmoid_backward)
