"""Attention for CPU: heads before tokens, and a backward pass that reads the saved softmax.

XLA's batched products of small matrices are fastest on CPU if each matrix is contiguous. So tokens
and heads are swapped once before and once after, instead of in each product.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from einops import rearrange
from jaxtyping import Array, Bool, Float

from vljax.models.kernels.attention.reference import allowed_pairs
from vljax.models.precision import widened


def cpu_attention(
    query: Float[Array, "batch queries heads head_dim"],
    key: Float[Array, "batch keys heads head_dim"],
    value: Float[Array, "batch keys heads head_dim"],
    mask: Bool[Array, "batch keys"] | None = None,
    causal: bool = False,
) -> Float[Array, "batch queries heads head_dim"]:
    """`reference_attention` with the layout and the gradient that are fastest on CPU."""
    allowed = allowed_pairs(mask, causal, query.shape[1], key.shape[1])
    query, key, value = (rearrange(x, "b n h d -> b h n d") for x in (query, key, value))
    return rearrange(_attention(query, key, value, allowed), "b h n d -> b n h d")


class _Saved(NamedTuple):
    query: Array
    key: Array
    value: Array
    allowed: Array | None
    weights: Array
    output: Array


@jax.custom_vjp
def _attention(query: Array, key: Array, value: Array, allowed: Array | None) -> Array:
    return _forward(query, key, value, allowed)[0]


def _forward(query: Array, key: Array, value: Array, allowed: Array | None) -> tuple[Array, _Saved]:
    wide = jnp.promote_types(query.dtype, jnp.float32)
    logits = jnp.einsum("bhqd,bhkd->bhqk", query, key, preferred_element_type=wide)
    logits *= query.shape[-1] ** -0.5
    if allowed is not None:
        logits = jnp.where(allowed, logits, jnp.finfo(wide).min)
    weights = jnp.exp(logits - jnp.max(logits, -1, keepdims=True))
    weights = (weights / jnp.sum(weights, -1, keepdims=True)).astype(query.dtype)
    output = jnp.einsum("bhqk,bhkd->bhqd", weights, value)
    return output, _Saved(query, key, value, allowed, weights, output)


def _backward(saved: _Saved, gradient: Array) -> tuple[Array, Array, Array, None]:
    """With p the weights and g the gradient, that of the logits is p (g v - g output)."""
    query, key, value, allowed, weights, output = saved
    wide = jnp.promote_types(weights.dtype, jnp.float32)
    along_output = jnp.sum(widened(gradient) * widened(output), -1, keepdims=True)
    to_weights = jnp.einsum("bhqd,bhkd->bhqk", gradient, value, preferred_element_type=wide)
    to_logits = widened(weights) * (to_weights - along_output) * query.shape[-1] ** -0.5
    if allowed is not None:  # without this, a query that has no allowed key would get a gradient
        to_logits = jnp.where(allowed, to_logits, 0)
    to_logits = to_logits.astype(weights.dtype)
    to_query = jnp.einsum("bhqk,bhkd->bhqd", to_logits, key)
    to_key = jnp.einsum("bhkq,bhqd->bhkd", _keys_first(to_logits), query)
    to_value = jnp.einsum("bhkq,bhqd->bhkd", _keys_first(weights), gradient)
    return to_query, to_key, to_value, None


def _keys_first(
    weights: Float[Array, "batch heads queries keys"],
) -> Float[Array, "batch heads keys queries"]:
    # XLA gives a product that contracts queries to Eigen, which is slower than the library it has
    # for others, even if the transpose is counted.
    return jax.lax.optimization_barrier(jnp.swapaxes(weights, -1, -2))


_attention.defvjp(_forward, _backward)
