"""Attention as its formula says, and in the order of axes that is fastest on CPU.

All other ways of computing attention agree with `reference_attention`.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from einops import rearrange
from jaxtyping import Array, Bool, Float

from vljax.models.numerics import widened


def reference_attention(
    query: Float[Array, "batch queries heads head_dim"],
    key: Float[Array, "batch keys heads head_dim"],
    value: Float[Array, "batch keys heads head_dim"],
    mask: Bool[Array, "batch keys"] | None = None,
    causal: bool = False,
) -> Float[Array, "batch queries heads head_dim"]:
    """Scaled dot-product attention (Vaswani et al. 2017, eq. 1), softmax in at least float32.

    Args:
      query, key, value: projected tokens.
      mask: the keys that may be attended to. If there are none, the result is the mean of the
        values.
      causal: whether a query attends only to keys up to its own position.
    """
    logits = jnp.einsum("bqhd,bkhd->bhqk", query, key, preferred_element_type=widened(query).dtype)
    logits *= query.shape[-1] ** -0.5
    allowed = allowed_pairs(mask, causal, query.shape[1], key.shape[1])
    if allowed is not None:
        # Finite, so that a query without any allowed key has equal weights and not NaN.
        logits = jnp.where(allowed, logits, jnp.finfo(logits.dtype).min)
    weights = jax.nn.softmax(logits).astype(query.dtype)
    return jnp.einsum("bhqk,bkhd->bqhd", weights, value)


def allowed_pairs(
    mask: Bool[Array, "batch keys"] | None, causal: bool, queries: int, keys: int
) -> Bool[Array, "#batch 1 #queries keys"] | None:
    """Which keys each query may attend to, broadcastable over heads; None if all of them."""
    allowed = None if mask is None else mask[:, None, None, :]
    if causal:
        earlier = jnp.tri(queries, keys, dtype=bool)[None, None]
        allowed = earlier if allowed is None else earlier & allowed
    return allowed


def cpu_attention(
    query: Float[Array, "batch queries heads head_dim"],
    key: Float[Array, "batch keys heads head_dim"],
    value: Float[Array, "batch keys heads head_dim"],
    mask: Bool[Array, "batch keys"] | None = None,
    causal: bool = False,
) -> Float[Array, "batch queries heads head_dim"]:
    """`reference_attention` with the layout that is fastest on CPU."""
    allowed = allowed_pairs(mask, causal, query.shape[1], key.shape[1])
    query, key, value = (rearrange(x, "b n h d -> b h n d") for x in (query, key, value))
    logits = jnp.einsum("bhqd,bhkd->bhqk", query, key, preferred_element_type=widened(query).dtype)
    logits *= query.shape[-1] ** -0.5
    if allowed is not None:
        logits = jnp.where(allowed, logits, jnp.finfo(logits.dtype).min)
    weights = jax.nn.softmax(logits).astype(query.dtype)
    return rearrange(jnp.einsum("bhqk,bhkd->bhqd", weights, value), "b h q d -> b q h d")
