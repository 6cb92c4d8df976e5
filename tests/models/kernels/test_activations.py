"""The gradient of the exact GELU, which is written out."""

import math

import jax
import jax.numpy as jnp
import numpy as np

from vljax.models.kernels.activations import gelu

erf = np.vectorize(math.erf)
X = np.linspace(-8, 8, 1601)


def test_the_slope_of_gelu_is_its_formula() -> None:
    """Phi(x) + x phi(x) in float64; float32 leaves 1e-6 of values up to 1.13."""
    slope = jax.vmap(jax.grad(gelu))(jnp.asarray(X, jnp.float32))
    exact = (1 + erf(X / np.sqrt(2))) / 2 + X * np.exp(-(X**2) / 2) / np.sqrt(2 * np.pi)
    np.testing.assert_allclose(slope, exact, rtol=0, atol=1e-6)


def test_gelu_of_bfloat16_is_rounded_once() -> None:
    x = jnp.asarray(X, jnp.bfloat16)
    wide = np.asarray(x, np.float64)
    exact = jnp.asarray(wide * (1 + erf(wide / np.sqrt(2))) / 2, jnp.bfloat16)
    # The float32 sum may fall on the other side of a rounding boundary: one part in 256 apart.
    np.testing.assert_allclose(
        np.asarray(gelu(x), np.float32), np.asarray(exact, np.float32), rtol=2**-7, atol=1e-6
    )
