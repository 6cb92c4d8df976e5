"""Blocks that attend to a context, against float64 NumPy and finite differences."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.models import reference
from tests.models.layers.stacks import Stack, config, normal, weights
from tests.models.tiny import float64
from vljax.config import UserError, validate
from vljax.models.layers.transformer import TransformerConfig
from vljax.models.parameters import unroll

CONFIGS = {
    "pre-norm": config(cross_attention="after_self", layer_scale=0.5),
    "post-norm": config(cross_attention="after_self", post_norm=True, scan=False),
    "before": config(cross_attention="before_self", scan=False),
    "before, post-norm": config(cross_attention="before_self", post_norm=True),
    "every other": config(cross_attention="after_self", depth=4, cross_every=2, scan=False),
}
MASK = np.arange(6) < np.array([[6], [3]])
SEEN = np.arange(5) < np.array([[2], [5]])


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_blocks_are_the_formula(config: TransformerConfig) -> None:
    """Values to 1e-6 of the largest; the derivative along a random direction to 1e-4."""
    params, x, context = weights(config, 12), normal(2, 6, 32), normal(2, 5, 12, seed=1)
    upstream = np.random.default_rng(2).standard_normal(x.shape)

    def total(params: Any, x: jax.Array, context: jax.Array) -> tuple[jax.Array, jax.Array]:
        rest = {"context": context, "context_mask": jnp.asarray(SEEN)}
        y = Stack(config).apply({"params": params}, x, jnp.asarray(MASK), **rest)
        return jnp.sum(y * upstream.astype(np.float32)), y

    gradient = jax.jit(jax.value_and_grad(total, (0, 1, 2), has_aux=True))
    (_, ours), gradients = gradient(params, jnp.asarray(x), jnp.asarray(context))
    inputs = float64(params), x.astype(np.float64), context.astype(np.float64)

    def exact(params: Any, x: np.ndarray, context: np.ndarray) -> np.ndarray:
        return reference.transformer(params, x, MASK, config, False, context, SEEN)

    theirs = exact(*inputs)
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-6 * np.abs(theirs).max())

    rng = np.random.default_rng(3)
    direction = jax.tree.map(lambda leaf: rng.standard_normal(leaf.shape), inputs)
    sides = []
    for step in (1e-6, -1e-6):
        moved = jax.tree.map(lambda leaf, to, step=step: leaf + step * to, inputs, direction)
        sides.append(np.sum(exact(*moved) * upstream))
    slope = (sides[0] - sides[1]) / 2e-6
    gradients = (unroll(gradients[0]), *gradients[1:])
    parts = jax.tree.map(lambda g, to: np.asarray(g, np.float64) * to, gradients, direction)
    size = sum(np.abs(part).sum() for part in jax.tree.leaves(parts))
    along = sum(part.sum() for part in jax.tree.leaves(parts))
    assert along == pytest.approx(slope, abs=1e-6 * size)


def test_every_other_block_has_parameters_for_the_context() -> None:
    blocks = weights(CONFIGS["every other"], 12)["blocks"]
    assert [i for i, block in blocks.items() if "cross_attention" in block] == ["1", "3"]
    assert blocks["1"]["cross_attention"]["key"]["kernel"].shape == (12, 4, 8)


def test_a_context_and_blocks_that_read_it_go_together() -> None:
    x = jnp.ones((1, 2, 32))
    with pytest.raises(UserError, match=r"^cross_attention: after_self needs a context; give one"):
        jax.eval_shape(Stack(CONFIGS["pre-norm"]).init, jax.random.key(0), x)
    with pytest.raises(UserError, match=r"^cross_attention: none, but there is a context; use"):
        jax.eval_shape(lambda: Stack(config()).init(jax.random.key(0), x, context=x))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({}, "no block has cross_attention; set it, or use 1, not 2"),
        ({"cross_attention": "after_self"}, "scanned blocks are all alike; unset scan, or use 1"),
        (
            {"cross_attention": "after_self", "scan": False, "depth": 3},
            "2 does not divide the depth 3",
        ),
    ],
)
def test_blocks_that_cannot_be_grouped_are_named(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=f"^cross_every: {message}"):
        validate(config(cross_every=2, **fields))
