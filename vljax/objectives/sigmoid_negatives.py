"""What the sigmoid loss needs to know of the pairs that do not belong together.

No logits are kept for the backward pass: the gradients are computed on the way forward.
"""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from vljax.objectives.pairs import Side
from vljax.objectives.tiles import Layout, plus, slopes_of_sides, sweep, zeros
from vljax.parallel.ring import on_each_part


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

    (losses, best, image), text = on_each_part(local, layout.mesh)(images, texts)
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
