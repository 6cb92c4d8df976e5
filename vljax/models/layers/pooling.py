"""Pooling: one vector from the tokens of each example."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jaxtyping import Array, Bool, Float

from vljax.models.compute import Call, Compute
from vljax.models.layers.attention import Attention
from vljax.models.layers.basic import MLP, layer_norm
from vljax.models.layers.transformer import TransformerConfig
from vljax.models.numerics import widened
from vljax.models.parameters import with_axes


def first(tokens: Float[Array, "batch length embed"], mask: Bool[Array, "batch length"]) -> Array:
    """The first token (CLS)."""
    return tokens[:, 0]


def last(tokens: Float[Array, "batch length embed"], mask: Bool[Array, "batch length"]) -> Array:
    """The last position of the context, padding or not, as SigLIP does."""
    return tokens[:, -1]


def eos(tokens: Float[Array, "batch length embed"], mask: Bool[Array, "batch length"]) -> Array:
    """The last token that is not padding: the end-of-sequence token of the tokenizer."""
    index = mask.shape[1] - 1 - jnp.argmax(mask[:, ::-1], axis=1)
    return jnp.take_along_axis(tokens, index[:, None, None], axis=1)[:, 0]


def before_eos(
    tokens: Float[Array, "batch length embed"], mask: Bool[Array, "batch length"]
) -> Array:
    """The token before the one that `eos` gives: the last word; the first token if there is one."""
    index = mask.shape[1] - 1 - jnp.argmax(mask[:, ::-1], axis=1)
    index = jnp.maximum(index - 1, 0)
    return jnp.take_along_axis(tokens, index[:, None, None], axis=1)[:, 0]


def mean(tokens: Float[Array, "batch length embed"], mask: Bool[Array, "batch length"]) -> Array:
    """The mean of the tokens that are not padding; zero if there are none."""
    wide = widened(tokens)
    weights = mask.astype(wide.dtype)[:, :, None]
    total = jnp.sum(wide * weights, axis=1)
    return (total / jnp.maximum(jnp.sum(weights, axis=1), 1)).astype(tokens.dtype)


def adaptive_mean(
    x: Float[Array, "batch height width channels"], rows: int, columns: int
) -> Float[Array, "batch rows columns channels"]:
    """The means over the cells of a grid of `rows` and `columns` that covers an image.

    Cell i of n covers the pixels from floor(i * size / n) to ceil((i + 1) * size / n), as in
    PyTorch's `adaptive_avg_pool2d`: neighbours overlap by a pixel where n does not divide the size,
    and cells repeat pixels where n is larger.

    >>> adaptive_mean(jnp.arange(3.0).reshape(1, 1, 3, 1), 1, 2)[0, 0, :, 0].tolist()
    [0.5, 1.5]
    """

    def weights(size: int, cells: int) -> np.ndarray:
        made = np.zeros((cells, size), np.float32)
        for i in range(cells):
            first, last = i * size // cells, -(-(i + 1) * size // cells)
            made[i, first:last] = 1 / (last - first)
        return made

    height, width = x.shape[1:3]
    if (rows, columns) == (height, width):
        return x
    wide = widened(x)
    over_rows, over_columns = weights(height, rows), weights(width, columns)
    # By default a TPU rounds float32 factors of a product to 8 bits.
    high = jax.lax.Precision.HIGH
    wide = jnp.einsum("bhwc,rh->brwc", wide, over_rows.astype(wide.dtype), precision=high)
    wide = jnp.einsum("brwc,sw->brsc", wide, over_columns.astype(wide.dtype), precision=high)
    return wide.astype(x.dtype)


class AttentionPooling(nn.Module):
    """Multi-head attention pooling (MAP): a learned probe attends to all tokens, then an MLP.

    As in Zhai et al. 2022 (Scaling Vision Transformers) and SigLIP.
    """

    heads: int
    mlp_dim: int
    activation: str
    epsilon: float
    compute: Compute

    @nn.compact
    def __call__(
        self,
        tokens: Float[Array, "batch length embed"],
        mask: Bool[Array, "batch length"],
        call: Call = Call(),
    ) -> Float[Array, "batch embed"]:
        batch, _, width = tokens.shape
        xavier = with_axes(nn.initializers.xavier_uniform(), "none", "embed")
        probe = self.param("probe", xavier, (1, width), self.compute.param_dtype)
        query = jnp.broadcast_to(probe.astype(self.compute.dtype), (batch, 1, width))
        attention = Attention(width, self.heads, self.compute, name="attention")
        pooled = attention(query, tokens, mask, call=call)
        normed = layer_norm(self.compute, self.epsilon, "norm")(pooled)
        pooled = pooled + MLP(self.mlp_dim, self.activation, self.compute, name="mlp")(normed)
        return pooled[:, 0]


Pooling = Literal["cls", "first", "last", "eos", "before_eos", "mean", "map"]
POOLINGS: dict[str, Callable[[Array, Array], Array]] = {
    "cls": first,
    "first": first,
    "last": last,
    "eos": eos,
    "before_eos": before_eos,
    "mean": mean,
}


def pool(
    name: Pooling,
    tokens: Float[Array, "batch length embed"],
    mask: Bool[Array, "batch length"],
    config: TransformerConfig,
    compute: Compute,
    call: Call = Call(),
) -> Float[Array, "batch embed"]:
    """The pooled tokens, by the pooling with that name.

    Call it inside a compact module: `map` adds its parameters there, under `pooling`.
    """
    if name != "map":
        return POOLINGS[name](tokens, mask)
    widths = (config.heads, config.mlp_dim, config.activation, config.norm_epsilon)
    return AttentionPooling(*widths, compute, name="pooling")(tokens, mask, call)
