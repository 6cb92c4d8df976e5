"""Activations of the MLP, and the gradient of the exact GELU."""

from __future__ import annotations

import math
import typing

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.models import reference
from vljax.models.fusion import Resampler
from vljax.models.layers.basic import ACTIVATIONS, gelu
from vljax.models.layers.transformer import TransformerConfig

erf = np.vectorize(math.erf)
X = np.linspace(-8, 8, 1601)


def test_the_gradient_of_gelu_is_its_formula() -> None:
    """Phi(x) + x phi(x) in float64; float32 leaves 1e-6 of values up to 1.13."""
    gradient = jax.vmap(jax.grad(gelu))(jnp.asarray(X, jnp.float32))
    exact = (1 + erf(X / np.sqrt(2))) / 2 + X * np.exp(-(X**2) / 2) / np.sqrt(2 * np.pi)
    np.testing.assert_allclose(gradient, exact, rtol=0, atol=1e-6)


def test_gelu_of_bfloat16_is_rounded_once() -> None:
    x = jnp.asarray(X, jnp.bfloat16)
    wide = np.asarray(x, np.float64)
    exact = jnp.asarray(wide * (1 + erf(wide / np.sqrt(2))) / 2, jnp.bfloat16)
    # The float32 sum may fall on the other side of a rounding boundary: one part in 256 apart.
    np.testing.assert_allclose(
        np.asarray(gelu(x), np.float32), np.asarray(exact, np.float32), rtol=2**-7, atol=1e-6
    )


@pytest.mark.parametrize("name", sorted(ACTIVATIONS))
def test_activation_is_its_formula(name: str) -> None:
    """To 1e-6, and to float32 of the square of ReLU, which is up to 36.

    The approximations of GELU differ from the exact one by up to 2e-2.
    """
    x = np.linspace(-6, 6, 1201, dtype=np.float32)
    ours = ACTIVATIONS[name](jnp.asarray(x))
    theirs = reference.ACTIVATIONS[name](x.astype(np.float64))
    np.testing.assert_allclose(ours, theirs, rtol=2e-7, atol=1e-6)


def test_every_activation_of_a_recipe_exists() -> None:
    """Those of Flamingo are for fusions only: no format of a tower has them."""
    hints = [typing.get_type_hints(kind)["activation"] for kind in (TransformerConfig, Resampler)]
    towers, fusions = (set(typing.get_args(hint)) for hint in hints)
    assert fusions == {*ACTIVATIONS, "swiglu"}
    assert fusions - towers == {"relu", "squared_relu"}
