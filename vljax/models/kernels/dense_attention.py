"""Attention with all weights in memory, with a backward pass that keeps matrix units busy.

The gradient that JAX derives makes XLA compute the softmax again before each matrix product that
reads it, and sum over keys for its gradient. Here what several products read is written once, in
the format of the inputs; the division comes after the values are mixed, where there is a head_dim
in place of a row of keys; and the gradient's sum over keys is taken from the output, as in Dao et
al. 2022 (FlashAttention, section 3.1).
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.lax import optimization_barrier
from jaxtyping import Array, Bool, Float

from vljax.models.compute import widened


class _Saved(NamedTuple):
    query: Array
    key: Array
    value: Array
    allowed: Array | None
    weights: Array
    total: Array
    output: Array


@jax.custom_vjp
def dense_attention(
    query: Float[Array, "batch queries heads head_dim"],
    key: Float[Array, "batch keys heads head_dim"],
    value: Float[Array, "batch keys heads head_dim"],
    allowed: Bool[Array, "#batch 1 #queries keys"] | None = None,
) -> Float[Array, "batch queries heads head_dim"]:
    """Scaled dot-product attention (Vaswani et al. 2017, eq. 1), softmax in at least float32.

    Args:
      query, key, value: projected tokens.
      allowed: which keys a query may attend to; where none, the result is the mean of the values.
    """
    return _forward(query, key, value, allowed)[0]


def _forward(query: Array, key: Array, value: Array, allowed: Array | None) -> tuple[Array, _Saved]:
    dtype, wide = query.dtype, jnp.promote_types(query.dtype, jnp.float32)
    logits = jnp.einsum("bqhd,bkhd->bhqk", query, key, preferred_element_type=wide)
    logits *= query.shape[-1] ** -0.5
    if allowed is not None:
        logits = jnp.where(allowed, logits, jnp.finfo(wide).min)
    weights = jnp.exp(logits - jnp.max(logits, -1, keepdims=True))
    total = jnp.einsum("bhqk->bqh", weights)[..., None]
    # The barrier keeps XLA from exponentiating again in each product: one fusion makes both.
    weights, total = optimization_barrier((weights.astype(dtype), total))
    mixed = jnp.einsum("bhqk,bkhd->bqhd", weights, value, preferred_element_type=wide)
    # Once more: the division belongs to this product, not to each that reads its result.
    output = optimization_barrier((mixed / total).astype(dtype))
    return output, _Saved(query, key, value, allowed, weights, total, output)


def _backward(saved: _Saved, gradient: Array) -> tuple[Array, Array, Array, None]:
    """With p = weights / total: the gradient of the logits is p (g v - g output)."""
    query, key, value, allowed, weights, total, output = saved
    dtype, wide = weights.dtype, total.dtype
    scaled = widened(gradient) / total
    along_output = jnp.einsum("bqhd,bqhd->bhq", scaled, widened(output))[..., None]
    scaled = scaled.astype(dtype)
    to_weights = jnp.einsum("bqhd,bkhd->bhqk", scaled, value, preferred_element_type=wide)
    to_logits = widened(weights) * (to_weights - along_output)
    if allowed is not None:  # matters where a query may attend to nothing
        to_logits = jnp.where(allowed, to_logits, 0)
    to_logits = optimization_barrier(to_logits.astype(dtype))
    factor = jnp.asarray(query.shape[-1] ** -0.5, dtype)
    to_query = jnp.einsum("bhqk,bkhd->bqhd", to_logits, key) * factor
    to_key = jnp.einsum("bhqk,bqhd->bkhd", to_logits, query) * factor
    to_value = jnp.einsum("bhqk,bqhd->bkhd", weights, scaled)
    return to_query, to_key, to_value, None


dense_attention.defvjp(_forward, _backward)
