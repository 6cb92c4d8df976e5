"""Layer normalisation with a backward pass in closed form."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from vljax.models.compute import widened

Sums = tuple[Float[Array, "*rows 1"], Float[Array, "*rows 1"]]
_Saved = tuple[Array, Array, Array, Array]


@functools.partial(jax.custom_vjp, nondiff_argnums=(3, 4))
def normalise(
    x: Float[Array, "*rows embed"],
    scale: Float[Array, "embed"],
    bias: Float[Array, "embed"],
    epsilon: float,
    by_matmul: bool = False,
) -> Float[Array, "*rows embed"]:
    """Layer normalisation (Ba et al. 2016), in at least float32; the result has the type of scale.

    The variance is taken after the mean is gone. The gradient is written out, because the one that
    JAX derives sums over the features once more.

    Args:
      x: features.
      scale, bias: applied to the normalised features.
      epsilon: added to the variance.
      by_matmul: sums over features as products with ones, cheaper on TPU. It counts for bfloat16
        features only. Sums stay in float32, and what is no feature itself (squared deviations,
        terms of the gradient) enters with 16 bits.
    """
    return _forward(x, scale, bias, epsilon, by_matmul)[0]


def _forward(
    x: Array, scale: Array, bias: Array, epsilon: float, by_matmul: bool
) -> tuple[Array, _Saved]:
    mean, variance = _statistics(x, by_matmul)
    inverse = jax.lax.rsqrt(variance + epsilon)
    y = (widened(x) - mean) * (inverse * scale) + bias
    return y, (x, mean, inverse, scale)


def _backward(epsilon: float, by_matmul: bool, saved: _Saved, dy: Array) -> tuple[Array, ...]:
    """With z the normalised features and g = dy * scale: dx = (g - mean(g) - z mean(g z)) / std."""
    x, mean, inverse, scale = saved
    dy = widened(dy)
    z = (widened(x) - mean) * inverse
    g = dy * scale
    total = functools.partial(_sum, by_matmul=by_matmul and x.dtype == jnp.bfloat16)
    along = g - (total(g) + z * total(g * z)) / x.shape[-1]
    rows = tuple(range(x.ndim - 1))
    to_scale, to_bias = (jnp.sum(part, rows).astype(scale.dtype) for part in (dy * z, dy))
    return (inverse * along).astype(x.dtype), to_scale, to_bias


normalise.defvjp(_forward, _backward)


def _statistics(x: Float[Array, "*rows embed"], by_matmul: bool) -> Sums:
    """Mean and variance of each row."""
    size, by_matmul = x.shape[-1], by_matmul and x.dtype == jnp.bfloat16
    mean = _sum(x if by_matmul else widened(x), by_matmul) / size
    return mean, _sum(jnp.square(widened(x) - mean), by_matmul) / size


def _sum(x: Float[Array, "*rows embed"], by_matmul: bool) -> Float[Array, "*rows 1"]:
    if not by_matmul:
        return jnp.sum(x, -1, keepdims=True)
    # HIGH takes float32 as two bfloat16 parts. The columns are equal; only the first is read.
    ones, high = jnp.ones((x.shape[-1], 8), x.dtype), jax.lax.Precision.HIGH
    return jnp.matmul(x, ones, precision=high, preferred_element_type=jnp.float32)[..., :1]
