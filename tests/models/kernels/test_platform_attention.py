"""Attention for TPU and CPU, against float64 NumPy and finite differences."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.models import reference
from vljax.models.kernels.attention.reference import cpu_attention
from vljax.models.kernels.attention.tpu import tpu_attention
from vljax.models.kernels.choose import Attention

both = pytest.mark.parametrize("attention", [tpu_attention, cpu_attention])
MASK = np.array([[1, 1, 1, 0, 1], [0, 1, 1, 1, 0], [1, 0, 0, 0, 0]], bool)


def qkv(scale: float = 1.0) -> tuple[np.ndarray, ...]:
    random = np.random.default_rng(0)
    return tuple((scale * random.standard_normal((3, 5, 2, 8))).astype(np.float32) for _ in "qkv")


def device_mask(mask: np.ndarray | None) -> jax.Array | None:
    return None if mask is None else jnp.asarray(mask)


@both
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("causal", [False, True])
def test_values(attention: Attention, masked: bool, causal: bool) -> None:
    mask = MASK if masked else None
    ours = jax.jit(lambda *a: attention(*a, device_mask(mask), causal))(*qkv())
    theirs = reference.attend(*(x.astype(np.float64) for x in qkv()), mask, causal)
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-6)


@both
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("causal", [False, True])
def test_gradients(attention: Attention, masked: bool, causal: bool) -> None:
    """Along a random direction, against central differences of the float64 reference.

    Their error is 1e-4 squared times third derivatives; float32 leaves 1e-5 of the largest value.
    """
    mask = MASK if masked else None
    args = [x.astype(np.float64) for x in qkv()]
    random = np.random.default_rng(1)
    upstream = random.standard_normal(args[0].shape)

    def total(*args: Any) -> jax.Array:
        return jnp.sum(attention(*args, device_mask(mask), causal) * upstream.astype(np.float32))

    gradients = jax.jit(jax.grad(total, argnums=(0, 1, 2)))(*qkv())
    for i, gradient in enumerate(gradients):
        direction = random.standard_normal(args[i].shape)
        sides = []
        for sign in (1, -1):
            moved = [x + sign * 1e-4 * direction * (i == j) for j, x in enumerate(args)]
            sides.append(np.sum(reference.attend(*moved, mask, causal) * upstream))
        expected = (sides[0] - sides[1]) / 2e-4
        assert np.sum(np.asarray(gradient, np.float64) * direction) == pytest.approx(
            expected, abs=1e-4
        )


@both
def test_large_logits_do_not_overflow(attention: Attention) -> None:
    """Logits up to 1,000: exp overflows at 88 if the maximum is not subtracted."""
    query, key, value = qkv(scale=30)
    ours = jax.jit(attention)(query, key, value)
    theirs = reference.attend(*(x.astype(np.float64) for x in (query, key, value)))
    # A logit of 1,000 is known to 1e-4 in float32, and so is the ratio of two weights; |v| < 90.
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=2e-2)


@both
def test_bfloat16_keeps_the_softmax_in_float32(attention: Attention) -> None:
    query, key, value = (jnp.asarray(x, jnp.bfloat16) for x in qkv())
    ours = jax.jit(attention)(query, key, value)
    theirs = reference.attend(*(np.asarray(x, np.float64) for x in (query, key, value)))
    assert ours.dtype == jnp.bfloat16
    # Weights and result are rounded to 8 bits; values are up to 3.
    np.testing.assert_allclose(np.asarray(ours, np.float64), theirs, rtol=0, atol=1.5e-2)
