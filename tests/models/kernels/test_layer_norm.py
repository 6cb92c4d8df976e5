"""Layer normalisation against float64 NumPy: values, and gradients by the textbook formula."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vljax.models.kernels.layer_norm import normalise, normalise_by_matmul

EPSILON = 1e-6
both = pytest.mark.parametrize("function", [normalise, normalise_by_matmul])


def arguments(mean: float = 0.0) -> tuple[np.ndarray, ...]:
    random = np.random.default_rng(0)
    x, upstream = random.standard_normal((2, 3, 5, 64))
    scale, bias = random.standard_normal((2, 64))
    x, scale, bias, upstream = (v.astype(np.float32) for v in (x + mean, scale, bias, upstream))
    return x, scale, bias, upstream


def expected(x: Any, scale: Any, bias: Any, upstream: Any) -> tuple[np.ndarray, ...]:
    """Output and gradients; that of x by the whole Jacobian of a row, not by a closed form."""
    x, scale, bias, upstream = (np.asarray(v, np.float64) for v in (x, scale, bias, upstream))
    size = x.shape[-1]
    centre = np.eye(size) - 1 / size
    d = x @ centre
    std = np.sqrt(np.mean(d**2, -1, keepdims=True) + EPSILON)
    z = d / std
    # dz_i/dx_j = (centre_ij - z_i z_j / n) / std
    jacobian = (centre - z[..., :, None] * z[..., None, :] / size) / std[..., None]
    dx = np.einsum("abi,abij->abj", upstream * scale, jacobian)
    return z * scale + bias, dx, (upstream * z).sum((0, 1)), upstream.sum((0, 1))


def ours(x: Any, scale: Any, bias: Any, upstream: Any, function: Any) -> tuple[jax.Array, ...]:
    @jax.jit
    def value_and_gradients(x: Any, scale: Any, bias: Any, upstream: Any) -> tuple[jax.Array, ...]:
        y, pull = jax.vjp(lambda *args: function(*args, EPSILON), x, scale, bias)
        return (y, *pull(upstream))

    return value_and_gradients(x, scale, bias, upstream)


@pytest.mark.parametrize("mean", [0.0, 30.0])
@both
def test_values_and_gradients(mean: float, function: Any) -> None:
    """float32: relative to the largest of each array, 1e-6, and as much more as x is off zero."""
    args = arguments(mean)
    for one, other in zip(ours(*args, function), expected(*args), strict=True):
        limit = 1e-6 * (1 + mean) * np.abs(other).max()
        np.testing.assert_allclose(one, other, rtol=0, atol=limit)


@both
def test_bfloat16_features_have_statistics_in_float32(function: Any) -> None:
    """Of features that bfloat16 holds exactly, the float32 output is as good as of float32 ones.

    Statistics in bfloat16 would be off by 4e-3.
    """
    x, scale, bias, upstream = arguments(mean=2.0)
    x = jnp.asarray(x, jnp.bfloat16)
    y, dx, *others = ours(x, scale, bias, upstream, function)
    theirs = expected(x.astype(jnp.float32), scale, bias, upstream)
    assert y.dtype == jnp.float32
    assert dx.dtype == jnp.bfloat16
    np.testing.assert_allclose(y, theirs[0], rtol=0, atol=5e-6)
    # The gradient of x is rounded to bfloat16: 8 bits.
    np.testing.assert_allclose(dx.astype(np.float32), theirs[1], rtol=2**-8, atol=1e-6)
    for one, other in zip(others, theirs[2:], strict=True):
        np.testing.assert_allclose(one, other, rtol=0, atol=1e-5)


def test_sums_by_matmul_are_for_bfloat16_only() -> None:
    """A TPU would round float32 features in a product."""
    for dtype, dots in ((jnp.bfloat16, 2), (jnp.float32, 0)):
        x = jnp.ones((2, 8), dtype)
        program = jax.make_jaxpr(lambda x: normalise_by_matmul(x, x[0], x[0], EPSILON))(x)
        assert str(program).count("dot_general") == dots
