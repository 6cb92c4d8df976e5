"""The activations of MLPs."""

from __future__ import annotations

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from vljax.models.compute import widened


@jax.custom_vjp
def gelu(x: Float[Array, "..."]) -> Float[Array, "..."]:
    """x times the normal distribution function of x (Hendrycks & Gimpel 2016), exact.

    By the error function, as PyTorch has it: its complement, which is more exact for large negative
    values, takes XLA several passes on CPU. The gradient is written out, so that a pass makes it.
    """
    return _gelu(x)[0]


def _gelu(x: Array) -> tuple[Array, Array]:
    wide = widened(x)
    return (wide * _normal_cdf(wide)).astype(x.dtype), x


def _gelu_gradient(x: Array, gradient: Array) -> tuple[Array]:
    wide = widened(x)
    density = jnp.exp(-jnp.square(wide) / 2) / math.sqrt(2 * math.pi)
    slope = _normal_cdf(wide) + wide * density
    return ((widened(gradient) * slope).astype(x.dtype),)


def _normal_cdf(x: Array) -> Array:
    return (1 + jax.lax.erf(x / math.sqrt(2))) / 2


gelu.defvjp(_gelu, _gelu_gradient)


def gelu_tanh(x: Float[Array, "..."]) -> Float[Array, "..."]:
    """GELU by the hyperbolic tangent (Hendrycks & Gimpel 2016)."""
    return jax.nn.gelu(x, approximate=True)


def quick_gelu(x: Float[Array, "..."]) -> Float[Array, "..."]:
    """GELU by the logistic function (Hendrycks & Gimpel 2016), as CLIP was trained."""
    return x * jax.nn.sigmoid(1.702 * x)


ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "gelu": gelu,
    "gelu_tanh": gelu_tanh,
    "quick_gelu": quick_gelu,
}
