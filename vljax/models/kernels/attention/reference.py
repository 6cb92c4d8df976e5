"""Attention as its formula says, and in the order of axes that is fastest on CPU.

All other ways of computing attention agree with `reference_attention`.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from einops import rearrange
from jaxtyping import Array, Bool, Float

from vljax.models.numerics import widened

Mask = Bool[Array, "#batch #queries keys"] | Bool[Array, "#batch keys"] | None
"""The keys that each query may attend to. (batch, keys) is short for (batch, 1, keys): the same
keys for all queries. None: all keys."""


def reference_attention(
    query: Float[Array, "batch queries heads head_dim"],
    key: Float[Array, "batch keys heads head_dim"],
    value: Float[Array, "batch keys heads head_dim"],
    mask: Mask = None,
    causal: bool = False,
) -> Float[Array, "batch queries heads head_dim"]:
    """Scaled dot-product attention (Vaswani et al. 2017, eq. 1), softmax in at least float32.

    Args:
      query, key, value: projected tokens.
      mask: the keys that may be attended to. If there are none, the result is the mean of the
        values.
      causal: whether a query attends only to keys up to its own position, counted from the last
        one: query i of Q to keys j <= i + K - Q.

    Raises:
      ValueError: if there are more queries than keys, and `causal`.

    >>> x = jnp.ones((1, 3, 2, 4))
    >>> values = jnp.arange(3.0)[None, :, None, None] * x
    >>> reference_attention(x[:, :2], x, values, causal=True)[0, :, 0, 0]
    Array([0.5, 1. ], dtype=float32)
    """
    weights = attention_weights(query, key, mask, causal).astype(query.dtype)
    return jnp.einsum("bhqk,bkhd->bqhd", weights, value)


def attention_weights(
    query: Float[Array, "batch queries heads head_dim"],
    key: Float[Array, "batch keys heads head_dim"],
    mask: Mask = None,
    causal: bool = False,
) -> Float[Array, "batch heads queries keys"]:
    """The weights of the values in `reference_attention`, in at least float32."""
    logits = jnp.einsum("bqhd,bkhd->bhqk", query, key, preferred_element_type=widened(query).dtype)
    logits *= query.shape[-1] ** -0.5
    allowed = allowed_pairs(mask, causal, query.shape[1], key.shape[1])
    if allowed is not None:
        # Finite, so that a query without any allowed key has equal weights and not NaN.
        logits = jnp.where(allowed, logits, jnp.finfo(logits.dtype).min)
    return jax.nn.softmax(logits)


def allowed_pairs(
    mask: Mask, causal: bool, queries: int, keys: int
) -> Bool[Array, "#batch 1 #queries keys"] | None:
    """Which keys each query may attend to, broadcastable over heads; None if all of them."""
    if causal and queries > keys:
        raise ValueError(f"causal attention of {queries} queries needs as many keys, not {keys}")
    allowed = mask
    if mask is not None:
        allowed = mask[:, None, None] if mask.ndim == 2 else mask[:, None]
    if causal:
        earlier = jnp.tri(queries, keys, keys - queries, dtype=bool)[None, None]
        allowed = earlier if allowed is None else earlier & allowed
    return allowed


def cpu_attention(
    query: Float[Array, "batch queries heads head_dim"],
    key: Float[Array, "batch keys heads head_dim"],
    value: Float[Array, "batch keys heads head_dim"],
    mask: Mask = None,
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
