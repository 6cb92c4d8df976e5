"""The layers that encoders, fusions and heads are made of."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange
from flax import linen as nn
from jax.ad_checkpoint import checkpoint_name
from jaxtyping import Array, Bool, Float, Int

from vljax.models.compute import Compute
from vljax.models.kernels.activations import ACTIVATIONS
from vljax.models.kernels.linear_map import linear_map
from vljax.models.kernels.norm import normalise
from vljax.models.kernels.quantized import QuantizedKernel, quantized_map
from vljax.models.layers.attention import attend

Initializer = Callable[..., Array]
Places = Int[Array, "batch"] | None


def named(init: Initializer, *axes: str) -> Callable[..., Any]:
    """An initializer that also records the logical names of the axes it fills."""
    return nn.with_logical_partitioning(init, axes)


class Linear(nn.Module):
    """A linear map from the last axes of its input to new ones, with named axes.

    The kernel has shape (*input axes, *output axes): `("embed", "heads", "head_dim")` for a query
    projection, `("heads", "head_dim", "embed")` with `inputs=2` for the way back.
    """

    features: tuple[int, ...]
    axes: tuple[str, ...]
    compute: Compute
    inputs: int = 1
    use_bias: bool = True

    @nn.compact
    def __call__(self, x: Float[Array, "..."]) -> Float[Array, "..."]:
        ins = tuple(range(self.inputs))
        outs = tuple(range(self.inputs, len(self.axes)))
        xavier = nn.initializers.variance_scaling(1.0, "fan_avg", "uniform", ins, outs)
        shape = (*x.shape[x.ndim - self.inputs :], *self.features)
        param_dtype, dtype = self.compute.param_dtype, self.compute.dtype
        kernel = self.param("kernel", named(xavier, *self.axes), shape, param_dtype)
        x, by_rows = x.astype(dtype), self.compute.products_by_rows
        if isinstance(kernel, QuantizedKernel):
            y = quantized_map(x, kernel, self.inputs, by_rows)
        else:
            y = linear_map(x, jnp.asarray(kernel, dtype), self.inputs, by_rows)
        if self.use_bias:
            zeros = named(nn.initializers.zeros_init(), *self.axes[self.inputs :])
            y = y + self.param("bias", zeros, self.features, param_dtype).astype(dtype)
        return y


class LayerNorm(nn.Module):
    """Layer normalisation over the embedding axis, statistics in float32 by two passes."""

    compute: Compute
    epsilon: float

    @nn.compact
    def __call__(self, x: Float[Array, "*rows embed"]) -> Float[Array, "*rows embed"]:
        shape, compute = x.shape[-1:], self.compute
        ones, zeros = nn.initializers.ones_init(), nn.initializers.zeros_init()
        scale = self.param("scale", named(ones, "embed"), shape, compute.param_dtype)
        bias = self.param("bias", named(zeros, "embed"), shape, compute.param_dtype)
        y = normalise(x, scale, bias, self.epsilon, compute.sums_by_matmul)
        return y.astype(compute.dtype)


def layer_norm(compute: Compute, epsilon: float, name: str) -> LayerNorm:
    """A layer normalisation of that name."""
    return LayerNorm(compute, epsilon, name=name)


class Dropout(nn.Module):
    """Dropout of single values, or of whole examples (drop path, Huang et al. 2016).

    Every example of the batch has a key of its own, so that its mask depends on its row alone.
    `places` are where the examples stand in the global batch, where `x` is only a part of it.
    """

    whole_examples: bool = False

    @nn.compact
    def __call__(
        self, x: Float[Array, "batch ..."], rate: float | Array, places: Places = None
    ) -> Float[Array, "batch ..."]:
        key = self.make_rng("dropout")
        shape = (1,) * (x.ndim - 1) if self.whole_examples else x.shape[1:]
        places = jnp.arange(x.shape[0]) if places is None else places
        keep = jax.vmap(
            lambda place: jax.random.bernoulli(jax.random.fold_in(key, place), 1 - rate, shape)
        )
        return jnp.where(keep(places), x / jnp.asarray(1 - rate, x.dtype), jnp.zeros((), x.dtype))


SAVEABLE = ("attention_query", "attention_key", "attention_value", "attention_mixed", "mlp_hidden")
"""Names of intermediates that rematerialisation may save (`TransformerConfig.remat_names`)."""


class Attention(nn.Module):
    """Multi-head attention of `x` to itself or to a context."""

    heads: int
    compute: Compute
    causal: bool = False

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "batch queries embed"],
        context: Float[Array, "batch keys context_embed"] | None = None,
        mask: Bool[Array, "batch keys"] | None = None,
    ) -> Float[Array, "batch queries embed"]:
        context = x if context is None else context
        width = x.shape[-1]
        inward = ((self.heads, width // self.heads), ("embed", "heads", "head_dim"), self.compute)
        names = ("batch", "length", "heads", "head_dim")

        def project(name: str, tokens: Array) -> Array:
            y = self.compute.constrain(Linear(*inward, name=name)(tokens), names)
            return checkpoint_name(y, f"attention_{name}")

        query, key = project("query", x), project("key", context)
        y = attend(query, key, project("value", context), mask, self.causal, self.compute)
        outward = Linear((width,), ("heads", "head_dim", "embed"), self.compute, 2, name="output")
        return outward(checkpoint_name(y, "attention_mixed"))


class MLP(nn.Module):
    """Two linear maps with an activation between them.

    With `swiglu` a third one, `gate`, is activated (SiLU) and multiplies the first (Shazeer 2020,
    eq. 6).
    """

    hidden: int
    activation: str
    compute: Compute

    @nn.compact
    def __call__(self, x: Float[Array, "batch length embed"]) -> Float[Array, "batch length embed"]:
        def project(name: str) -> Array:
            y = Linear((self.hidden,), ("embed", "mlp"), self.compute, name=name)(x)
            y = self.compute.constrain(y, ("batch", "length", "mlp"))
            return checkpoint_name(y, "mlp_hidden")

        hidden = project("up")
        if self.activation == "swiglu":
            hidden = jax.nn.silu(project("gate")) * hidden
        else:
            hidden = ACTIVATIONS[self.activation](hidden)
        return Linear((x.shape[-1],), ("mlp", "embed"), self.compute, name="down")(hidden)


def patchify(image: Float[Array, "batch height width channels"], size: int) -> Float[Array, "..."]:
    """Cuts an image into `size` x `size` patches: [batch, rows, columns, size, size, channels].

    What is left over at the bottom and right is cut off, as a convolution without padding does.
    """
    rows, columns = image.shape[1] // size, image.shape[2] // size
    image = image[:, : rows * size, : columns * size]
    return rearrange(image, "b (r p) (c q) d -> b r c p q d", p=size, q=size)


def sincos_2d(rows: int, columns: int, width: int) -> Float[Array, "length embed"]:
    """Fixed 2-D sine-cosine positions of a grid, row-major; see `sincos_at`."""
    grid = jnp.stack(jnp.mgrid[:rows, :columns], axis=-1)
    return sincos_at(grid.reshape(-1, 2), width)


def sincos_at(positions: Int[Array, "*shape 2"], width: int) -> Float[Array, "*shape embed"]:
    """Fixed 2-D sine-cosine positions (Chen et al. 2021, MoCo v3) of rows and columns.

    Wavelengths end at exactly 10,000 and x comes before y, as in big_vision; MoCo v3 stops short.

    Raises:
      ValueError: if `width` is less than 8 or no multiple of 4.
    """
    if width % 4 or width < 8:
        raise ValueError(f"2-D sine-cosine positions need a width of 8, 12, 16, ..., not {width}")
    frequency = 1.0 / 10_000 ** (jnp.arange(width // 4) / (width // 4 - 1))
    angles = [positions[..., axis, None] * frequency for axis in (1, 0)]
    return jnp.concatenate([f(angle) for angle in angles for f in (jnp.sin, jnp.cos)], axis=-1)


PositionFilter = Literal["bilinear", "bicubic", "bicubic_pytorch"]


def resample_positions(
    table: Float[Array, "length embed"],
    rows: int,
    columns: int,
    filter_name: PositionFilter = "bilinear",
) -> Float[Array, "new_length embed"]:
    """A square table of learned positions resampled to another grid.

    Args:
      table: of a square grid, row-major.
      rows, columns: of the new grid.
      filter_name: bilinear and bicubic are antialiased; bicubic_pytorch is not, and sharper.
    """
    side = math.isqrt(table.shape[0])
    if (rows, columns) == (side, side):
        return table
    grid = rearrange(table, "(r c) d -> r c d", r=side)
    if filter_name == "bicubic_pytorch":
        by_row, by_column = (jnp.asarray(_cubic_weights(side, n)) for n in (rows, columns))
        precision = jax.lax.Precision.HIGHEST
        grid = jnp.einsum("ri,cj,ijd->rcd", by_row, by_column, grid, precision=precision)
    else:
        method = "cubic" if filter_name == "bicubic" else "linear"
        grid = jax.image.resize(grid, (rows, columns, table.shape[1]), method)
    return rearrange(grid, "r c d -> (r c) d").astype(table.dtype)


def _cubic_weights(size: int, cells: int) -> Float[np.ndarray, "cells size"]:
    """Cubic convolution (Keys 1981, a = -0.75) at the centres of `cells` over `size` entries.

    What is outside counts as at the edge, as in PyTorch's `interpolate(mode="bicubic")`.
    """
    a = -0.75
    centres = (np.arange(cells) + 0.5) * size / cells - 0.5
    first = np.floor(centres).astype(int)
    weights = np.zeros((cells, size), np.float32)
    for offset in range(-1, 3):
        x = np.abs(centres - first - offset)
        near = (a + 2) * x**3 - (a + 3) * x**2 + 1
        far = a * (x**3 - 5 * x**2 + 8 * x - 4)
        place = np.clip(first + offset, 0, size - 1)
        np.add.at(weights, (np.arange(cells), place), np.where(x <= 1, near, far))
    return weights
