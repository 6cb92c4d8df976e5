"""What image encoders do with pixels and places."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
from einops import rearrange
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int, UInt8

from vljax.models.compute import Compute

Channels = tuple[float, float, float]


def normalised(
    image: UInt8[Array, "... 3"] | Float[Array, "... 3"],
    mean: Channels,
    std: Channels,
    compute: Compute,
) -> Float[Array, "... 3"]:
    """uint8 images with `mean` subtracted and divided by `std`, both of pixels in [0, 1]; others as
    they are."""
    if image.dtype == jnp.uint8:
        wide = image.astype(compute.reduction_dtype) / 255
        image = (wide - jnp.asarray(mean)) / jnp.asarray(std)
    return image.astype(compute.dtype)


def centres(rows: int, columns: int) -> Float[Array, "places 2"]:
    """Centres of the cells of a grid as (y, x) in [0, 1], row-major."""
    y, x = jnp.mgrid[:rows, :columns]
    both = jnp.stack([(y + 0.5) / rows, (x + 0.5) / columns], axis=-1)
    return rearrange(both, "r c d -> (r c) d")


# --- Positions of patches on grids that differ from image to image, in one compiled program -------


def resample_at(
    table: Float[Array, "length embed"],
    positions: Int[Array, "batch patches 2"],
    grid: Int[Array, "batch 2"],
) -> Float[Array, "batch patches embed"]:
    """A square table of positions, resampled to each image's own grid and read at its patches.

    Antialiased bilinear, as `layers.resample_positions` and NaFlex (Tschannen et al. 2025, section
    2.4.2) do; PyTorch's `interpolate(mode="bilinear", antialias=True)` gives the same. Grids may
    differ from image to image and be finer than the table: every patch has weights of its own for
    the entries of the table, and all of them are one matrix product.

    Args:
      table: of a square grid, row-major.
      positions: row and column of each patch.
      grid: rows and columns of each image; what is outside counts as at the edge.
    """
    side = math.isqrt(table.shape[0])
    by_row, by_column = (
        triangle_weights(positions[..., axis], grid[:, axis], side, table.dtype) for axis in (0, 1)
    )
    weights = by_row[..., :, None] * by_column[..., None, :]
    weights = weights.reshape(*weights.shape[:-2], side * side)
    # On TPU a product of float32 would otherwise be taken with 8 bits.
    return jnp.matmul(weights, table, precision=jax.lax.Precision.HIGH)


def triangle_weights(
    place: Int[Array, "batch patches"], cells: Int[Array, "batch"], size: int, dtype: DTypeLike
) -> Float[Array, "batch patches size"]:
    """What each entry of an axis counts in a resampled one; the weights of a place sum to 1.

    The filter is a triangle about the place's centre. It reaches as far as one entry of the coarser
    of both axes.

    Args:
      place: index along the resampled axis.
      cells: the length of the resampled axis.
      size: the length of the original axis.
      dtype: of the weights.
    """
    cells = jnp.maximum(cells, 1)[:, None]
    place = jnp.clip(place, 0, cells - 1)
    # Whole numbers up to the division: far from 0, a product with a rounded ratio loses digits.
    centre = ((2 * place + 1) * size).astype(dtype) / (2 * cells).astype(dtype)
    reach = jnp.maximum(jnp.asarray(size, dtype) / cells.astype(dtype), 1)
    entries = jnp.arange(size, dtype=dtype) + 0.5
    weights = jax.nn.relu(1 - jnp.abs(entries - centre[..., None]) / reach[..., None])
    return weights / jnp.sum(weights, axis=-1, keepdims=True)
