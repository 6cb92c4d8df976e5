"""Attention for TPU: with all logits in memory if sequences are short, else in tiles.

The gradient that JAX derives makes XLA compute the softmax again before each matrix product that
reads it, and sum over keys for its gradient. `dense_attention` writes once what several products
read, in the format of the inputs. It divides after the values are mixed, where rows have `head_dim`
entries instead of one for each key, and takes the gradient's sum over keys from the output, as in
Dao et al. 2022 (FlashAttention, section 3.1).

Without the custom gradient, the step of `siglip_vit_b16` with one layer in each tower takes 4.8 %
more cycles on v5e and 11 % more temporary memory. An image layer with JAX's own attention takes
4.18e6 instead of 2.56e6 cycles (docs/tpu_performance.md), which is 14 % of the whole model's step.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from einops import rearrange
from jax.lax import optimization_barrier
from jaxtyping import Array, Bool, Float

from vljax.models.kernels.attention.reference import Mask, allowed_pairs
from vljax.models.numerics import widened

SPLASH_FROM = 1024
"""Number of keys from which the tiled kernel is used; below it, a head's logits fit on the chip."""
TILE = 128
"""Rows and columns of a tile of the TPU's matrix unit."""

_TOKENS = ("batch", "length", "heads", "head_dim")
_MASK = ("batch", "length")


@runtime_checkable
class OnEachDevice(Protocol):
    """Runs a function on each device's part of its arguments, and joins the results."""

    def __call__(
        self,
        function: Callable[..., jax.Array],
        arguments: Sequence[jax.Array | None],
        axes: Sequence[tuple[str, ...]],
        out: tuple[str, ...],
    ) -> jax.Array:
        """`axes` and `out` name the logical axes of the arguments and of the result."""


def on_one_device(function: Any, arguments: Any, axes: Any, out: Any) -> jax.Array:
    """`OnEachDevice` without a mesh."""
    result: jax.Array = function(*arguments)
    return result


def tpu_attention(
    query: Float[Array, "batch queries heads head_dim"],
    key: Float[Array, "batch keys heads head_dim"],
    value: Float[Array, "batch keys heads head_dim"],
    mask: Mask = None,
    causal: bool = False,
    on_each_device: OnEachDevice = on_one_device,
) -> Float[Array, "batch queries heads head_dim"]:
    """`reference_attention` by the way that is faster for the number of keys."""
    if key.shape[1] >= SPLASH_FROM:
        return splash_attention(query, key, value, mask, causal, on_each_device)
    allowed = allowed_pairs(mask, causal, query.shape[1], key.shape[1])
    return dense_attention(query, key, value, allowed)


# --- With all logits in memory --------------------------------------------------------------------


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
      allowed: which keys each query may attend to. For a query without any, the result is the mean
        of the values.
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
    # The barrier keeps XLA from computing exponentials again in each product that reads them.
    weights, total = optimization_barrier((weights.astype(dtype), total))
    mixed = jnp.einsum("bhqk,bkhd->bqhd", weights, value, preferred_element_type=wide)
    # This one keeps the division with its product, out of each product that reads the output.
    output = optimization_barrier((mixed / total).astype(dtype))
    return output, _Saved(query, key, value, allowed, weights, total, output)


def _backward(saved: _Saved, gradient: Array) -> tuple[Array, Array, Array, None]:
    """With p = weights / total and g the gradient, that of the logits is p (g v - g output)."""
    query, key, value, allowed, weights, total, output = saved
    dtype, wide = weights.dtype, total.dtype
    scaled = widened(gradient) / total
    along_output = jnp.einsum("bqhd,bqhd->bhq", scaled, widened(output))[..., None]
    scaled = scaled.astype(dtype)
    to_weights = jnp.einsum("bqhd,bkhd->bhqk", scaled, value, preferred_element_type=wide)
    to_logits = widened(weights) * (to_weights - along_output)
    if allowed is not None:  # without this, a query that has no allowed key would get a gradient
        to_logits = jnp.where(allowed, to_logits, 0)
    to_logits = optimization_barrier(to_logits.astype(dtype))
    factor = jnp.asarray(query.shape[-1] ** -0.5, dtype)
    to_query = jnp.einsum("bhqk,bkhd->bqhd", to_logits, key) * factor
    to_key = jnp.einsum("bhqk,bqhd->bkhd", to_logits, query) * factor
    to_value = jnp.einsum("bhqk,bqhd->bkhd", weights, scaled)
    return to_query, to_key, to_value, None


dense_attention.defvjp(_forward, _backward)


# --- Tiled ----------------------------------------------------------------------------------------


def splash_attention(
    query: Float[Array, "batch queries heads head_dim"],
    key: Float[Array, "batch keys heads head_dim"],
    value: Float[Array, "batch keys heads head_dim"],
    mask: Mask = None,
    causal: bool = False,
    on_each_device: OnEachDevice = on_one_device,
) -> Float[Array, "batch queries heads head_dim"]:
    """`splash` on each device's part, because XLA cannot split a Pallas kernel over devices.

    The kernel can leave out keys for all queries of an example, and is causal only for as many
    queries as keys. `dense_attention` computes the rest: masks with a row for each query, and
    causal attention to more keys than queries.
    """
    queries, keys = query.shape[1], key.shape[1]
    by_query = mask is not None and mask.ndim == 3 and mask.shape[1] > 1
    if by_query or (causal and queries != keys):
        return dense_attention(query, key, value, allowed_pairs(mask, causal, queries, keys))
    if mask is not None:
        mask = jnp.broadcast_to(mask.reshape(-1, keys), (query.shape[0], keys))
    local = functools.partial(splash, causal=causal)
    axes = (_TOKENS, _TOKENS, _TOKENS, _MASK)
    return on_each_device(local, (query, key, value, mask), axes, _TOKENS)


def splash(
    query: Float[Array, "batch queries heads head_dim"],
    key: Float[Array, "batch keys heads head_dim"],
    value: Float[Array, "batch keys heads head_dim"],
    mask: Bool[Array, "batch keys"] | None,
    causal: bool = False,
    interpret: bool = False,
) -> Float[Array, "batch queries heads head_dim"]:
    """Attention by the tiled TPU kernel of JAX, which never writes logits to main memory.

    Lengths are padded to whole tiles, and padded keys are masked. A query without any allowed key
    gives zero, not the mean of the values.

    Args:
      query, key, value, mask, causal: as in `reference_attention`.
      interpret: whether to run the kernel in Pallas' interpreter: on any platform, but slowly.
    """
    from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_kernel as kernel
    from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_mask as masks

    batch, queries, heads, head_dim = query.shape
    keys = key.shape[1]
    mask = jnp.ones((batch, keys), bool) if mask is None else mask
    query = query * jnp.asarray(head_dim**-0.5, query.dtype)
    query, key, value = (_padded(x) for x in (query, key, value))
    shape = (query.shape[2], key.shape[2])
    head_mask = masks.CausalMask(shape) if causal else masks.FullMask(shape)
    attention = kernel.make_splash_mha(
        masks.MultiHeadMask([head_mask] * heads),
        block_sizes=_blocks(kernel, *shape),
        head_shards=1,
        q_seq_shards=1,
        interpret=interpret,
    )
    # A query attends to keys of its own segment (1); masked and padded keys are in segment 0.
    segments = kernel.SegmentIds(
        q=jnp.ones((batch, shape[0]), jnp.int32),
        kv=jnp.pad(mask.astype(jnp.int32), ((0, 0), (0, shape[1] - keys))),
    )
    out = jax.vmap(attention)(query, key, value, segments)
    out = rearrange(out, "b h n d -> b n h d")[:, :queries, :, :head_dim]
    # The kernel's backward pass is wrong for a query without any allowed key.
    any_key = jax.lax.cummax(mask.astype(jnp.int32), 1)
    any_key = (any_key[:, :queries] if causal else any_key[:, -1:]) > 0
    return jnp.where(any_key[..., None, None], out, 0)


def _blocks(kernel: Any, queries: int, keys: int) -> Any:
    """The largest blocks that divide the lengths and fit on the chip."""
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
    """Heads before tokens; length and head size padded with zeros to what the kernel supports."""
    x = rearrange(x, "b n h d -> b h n d")
    head_dim = x.shape[-1]
    wide = head_dim if head_dim in (TILE // 2, TILE) else -(-head_dim // TILE) * TILE
    return jnp.pad(x, ((0, 0), (0, 0), (0, -x.shape[2] % TILE), (0, wide - head_dim)))
