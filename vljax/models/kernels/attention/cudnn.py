"""Fused attention of cuDNN, for NVIDIA GPUs."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from vljax.models.kernels.attention.reference import Mask, allowed_pairs, reference_attention


def gpu_attention(
    query: Float[Array, "batch queries heads head_dim"],
    key: Float[Array, "batch keys heads head_dim"],
    value: Float[Array, "batch keys heads head_dim"],
    mask: Mask = None,
    causal: bool = False,
) -> Float[Array, "batch queries heads head_dim"]:
    """`reference_attention` by cuDNN if it supports the shapes and types, else by XLA.

    By cuDNN, the result of a query without any allowed key is not defined.
    """
    head_dim = query.shape[-1]
    supported = query.dtype in (jnp.bfloat16, jnp.float16) and head_dim % 8 == 0
    if supported and head_dim <= 128:
        return cudnn_attention(query, key, value, mask, causal)
    return reference_attention(query, key, value, mask, causal)


def cudnn_attention(
    query: Float[Array, "batch queries heads head_dim"],
    key: Float[Array, "batch keys heads head_dim"],
    value: Float[Array, "batch keys heads head_dim"],
    mask: Mask = None,
    causal: bool = False,
) -> Float[Array, "batch queries heads head_dim"]:
    """Attention by cuDNN, padded to the lengths and masks that its backward pass supports."""
    batch, queries, keys = *query.shape[:2], key.shape[1]
    # The kernels for training support even lengths only, and masks with a row for each query.
    query, key, value = (
        jnp.pad(x, ((0, 0), (0, x.shape[1] % 2), (0, 0), (0, 0))) for x in (query, key, value)
    )
    # Its own causal attention counts from the first query.
    square = queries == keys
    allowed = allowed_pairs(mask, causal and not square, queries, keys)
    if keys % 2 and not causal and allowed is None:
        allowed = jnp.ones((1, 1, 1, keys), bool)
    if allowed is not None:
        allowed = jnp.pad(allowed, ((0, 0), (0, 0), (0, 0), (0, keys % 2)))
        if allowed.shape[2] > 1:  # the padded query as the last one, so that it has a key
            allowed = jnp.pad(allowed, ((0, 0), (0, 0), (0, queries % 2), (0, 0)), mode="edge")
        allowed = jnp.broadcast_to(allowed, (batch, 1, query.shape[1], key.shape[1]))
    out = jax.nn.dot_product_attention(
        query, key, value, mask=allowed, is_causal=causal and square, implementation="cudnn"
    )
    return out[:, :queries]
