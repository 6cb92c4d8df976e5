"""Scaled dot-product attention behind one function, whatever computes it."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
from einops import rearrange
from jaxtyping import Array, Bool, Float

from vljax.models.compute import Compute
from vljax.models.kernels.dense_attention import dense_attention
from vljax.models.kernels.heads_first_attention import heads_first_attention

SPLASH_FROM = 1024
"""Keys from which on TPU the tiled kernel is chosen; below, a head's logits fit on the chip."""
TILE = 128
"""Rows and columns of a tile of the TPU's matrix unit."""

_TOKENS = ("batch", "length", "heads", "head_dim")
_MASK = ("batch", "length")


def attend(
    query: Float[Array, "batch queries heads head_dim"],
    key: Float[Array, "batch keys heads head_dim"],
    value: Float[Array, "batch keys heads head_dim"],
    mask: Bool[Array, "batch keys"] | None = None,
    causal: bool = False,
    compute: Compute | None = None,
) -> Float[Array, "batch queries heads head_dim"]:
    """Scaled dot-product attention (Vaswani et al. 2017, eq. 1), softmax in at least float32.

    Args:
      query, key, value: projected tokens.
      mask: the keys that may be attended to. Where none may, the result is the mean of the values,
        or zero by the tiled kernel.
      causal: whether a query sees only the keys up to its own place.
      compute: names the implementation; XLA's own if None.
    """
    compute = compute or Compute()
    kind = _implementation(compute, key.shape[1])
    if kind == "splash":
        local = functools.partial(splash, causal=causal)
        axes = (_TOKENS, _TOKENS, _TOKENS, _MASK)
        return compute.on_each_device(local, (query, key, value, mask), axes, _TOKENS)
    if kind == "heads_first":
        return heads_first_attention(query, key, value, mask, causal)
    allowed = None if mask is None else mask[:, None, None, :]
    # JAX's own function takes the softmax of float64 in float32.
    if kind == "dense" or query.dtype == jnp.float64:
        return dense_attention(query, key, value, _with_causal(allowed, query, key, causal))
    if kind == "cudnn" and _cudnn_takes(query):
        return _cudnn(query, key, value, mask, causal)
    return jax.nn.dot_product_attention(
        query, key, value, mask=allowed, is_causal=causal, implementation="xla"
    )


def _implementation(compute: Compute, keys: int) -> str:
    if compute.attention == "auto":
        return "splash" if keys >= SPLASH_FROM else "dense"
    return compute.attention


def _with_causal(allowed: Array | None, query: Array, key: Array, causal: bool) -> Array | None:
    if not causal:
        return allowed
    seen = jnp.tri(query.shape[1], key.shape[1], dtype=bool)[None, None]
    return seen if allowed is None else seen & allowed


def _cudnn_takes(query: Array) -> bool:
    """What cuDNN's fused attention is made for; anything else goes to XLA."""
    head_dim = query.shape[-1]
    return query.dtype in (jnp.bfloat16, jnp.float16) and head_dim % 8 == 0 and head_dim <= 128


def _cudnn(query: Array, key: Array, value: Array, mask: Array | None, causal: bool) -> Array:
    """In training its kernels take even lengths only, and a mask with a row for each query."""
    batch, queries, keys = *query.shape[:2], key.shape[1]
    query, key, value = (
        jnp.pad(x, ((0, 0), (0, x.shape[1] % 2), (0, 0), (0, 0))) for x in (query, key, value)
    )
    if keys % 2 and not causal and mask is None:
        mask = jnp.ones((batch, keys), bool)
    if mask is not None:
        mask = jnp.pad(mask, ((0, 0), (0, keys % 2)))[:, None, None, :]
        mask = jnp.broadcast_to(mask, (batch, 1, query.shape[1], key.shape[1]))
    out = jax.nn.dot_product_attention(
        query, key, value, mask=mask, is_causal=causal, implementation="cudnn"
    )
    return out[:, :queries]


def splash(
    query: Float[Array, "batch queries heads head_dim"],
    key: Float[Array, "batch keys heads head_dim"],
    value: Float[Array, "batch keys heads head_dim"],
    mask: Bool[Array, "batch keys"] | None,
    causal: bool = False,
    interpret: bool = False,
) -> Float[Array, "batch queries heads head_dim"]:
    """Attention by the tiled TPU kernel that ships with JAX; logits never reach main memory.

    Lengths are padded to whole tiles, and padded keys masked; `interpret` runs it anywhere, slowly.
    """
    from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_kernel as kernel
    from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_mask as masks

    batch, queries, heads, head_dim = query.shape
    keys = key.shape[1]
    seen = jnp.ones((batch, keys), bool) if mask is None else mask
    query = query * jnp.asarray(head_dim**-0.5, query.dtype)
    query, key, value = (_padded(x) for x in (query, key, value))
    shape = (query.shape[2], key.shape[2])
    one = masks.CausalMask(shape) if causal else masks.FullMask(shape)
    attention = kernel.make_splash_mha(
        masks.MultiHeadMask([one] * heads),
        block_sizes=_blocks(kernel, *shape),
        head_shards=1,
        q_seq_shards=1,
        interpret=interpret,
    )
    # A query and a key meet where their segments are equal: masked keys have one of their own.
    segments = kernel.SegmentIds(
        q=jnp.ones((batch, shape[0]), jnp.int32),
        kv=jnp.pad(seen.astype(jnp.int32), ((0, 0), (0, shape[1] - keys))),
    )
    out = jax.vmap(attention)(query, key, value, segments)
    out = rearrange(out, "b h n d -> b n h d")[:, :queries, :, :head_dim]
    # Where a query may attend to nothing, the kernel's backward pass is wrong.
    able = jax.lax.cummax(seen.astype(jnp.int32), 1)
    able = (able[:, :queries] if causal else able[:, -1:]) > 0
    return jnp.where(able[..., None, None], out, 0)


def _blocks(kernel: Any, queries: int, keys: int) -> Any:
    """The largest blocks that divide the lengths, up to what fits on the chip."""
    rows, columns = (next(b for b in (512, 256, TILE) if n % b == 0) for n in (queries, keys))
    return kernel.BlockSizes(
        block_q=rows,
        block_kv=columns,
        block_kv_compute=columns,
        block_q_dkv=rows,
        block_kv_dkv=columns,
        block_kv_dkv_compute=columns,
        block_q_dq=rows,
        block_kv_dq=columns,
    )


def _padded(x: Float[Array, "batch length heads head_dim"]) -> Float[Array, "batch heads n d"]:
    """Heads first, length and head size filled up with zeros to what the kernel takes."""
    x = rearrange(x, "b n h d -> b h n d")
    head_dim = x.shape[-1]
    wide = head_dim if head_dim in (TILE // 2, TILE) else -(-head_dim // TILE) * TILE
    return jnp.pad(x, ((0, 0), (0, 0), (0, -x.shape[2] % TILE), (0, wide - head_dim)))
