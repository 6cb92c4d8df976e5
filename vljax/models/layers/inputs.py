"""From images to tokens: normalised pixels, patches, and positions of patches.

`resample_positions` is for images of one size. `resample_at` is for batches whose images have
different grids.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int, UInt8

from vljax.models.compute import Compute

Channels = tuple[float, float, float]


def pixel_problems(std: Channels) -> Iterator[tuple[str, str]]:
    """For `problems` of encoders that divide pixels by `pixel_std`."""
    if not min(std) > 0:
        yield "pixel_std", f"must be above 0 for each channel, not {list(std)}"


def normalised(
    image: UInt8[Array, "... 3"] | Float[Array, "... 3"],
    mean: Channels,
    std: Channels,
    compute: Compute,
) -> Float[Array, "... 3"]:
    """Images normalised by channel: (pixels - mean) / std, with pixels in [0, 1].

    Only uint8 images are normalised; images of other types are returned as they are.

    >>> white = jnp.full((1, 1, 3), 255, jnp.uint8)
    >>> normalised(white, (0.5,) * 3, (0.5,) * 3, Compute()).tolist()
    [[[1.0, 1.0, 1.0]]]
    """
    if image.dtype == jnp.uint8:
        wide = image.astype(compute.reduction_dtype) / 255
        image = (wide - jnp.asarray(mean)) / jnp.asarray(std)
    return image.astype(compute.dtype)


def centres(rows: int, columns: int) -> Float[Array, "cells 2"]:
    """Centres of the cells of a grid as (y, x) in [0, 1], row-major."""
    y, x = jnp.mgrid[:rows, :columns]
    both = jnp.stack([(y + 0.5) / rows, (x + 0.5) / columns], axis=-1)
    return rearrange(both, "r c d -> (r c) d")


def patchify(image: Float[Array, "batch height width channels"], size: int) -> Float[Array, "..."]:
    """Cuts an image into `size` x `size` patches: [batch, rows, columns, size, size, channels].

    Pixels left over at the bottom and right are dropped, as by a convolution without padding.

    >>> patchify(jnp.zeros((1, 32, 50, 3)), 16).shape
    (1, 2, 3, 16, 16, 3)
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

    x comes before y, and the longest wavelength is exactly 10,000 as in big_vision (in MoCo v3 it
    is shorter).

    Raises:
      ValueError: if `width` is less than 8 or not a multiple of 4.

    >>> sincos_at(jnp.array([[0, 0]]), 8).tolist()
    [[0.0, 0.0, 1.0, 1.0, 0.0, 0.0, 1.0, 1.0]]
    """
    if width % 4 or width < 8:
        raise ValueError(f"2-D sine-cosine positions need a width of 8, 12, 16, ..., not {width}")
    frequency = 1.0 / 10_000 ** (jnp.arange(width // 4) / (width // 4 - 1))
    angles = [positions[..., axis, None] * frequency for axis in (1, 0)]
    return jnp.concatenate([f(angle) for angle in angles for f in (jnp.sin, jnp.cos)], axis=-1)


PositionFilter = Literal["bilinear", "bilinear_corners", "bicubic", "bicubic_pytorch"]


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
      filter_name: bilinear and bicubic are antialiased; bicubic_pytorch is not, and sharper;
        bilinear_corners is not either, see `resample_at`.
    """
    side = math.isqrt(table.shape[0])
    if (rows, columns) == (side, side):
        return table
    grid = rearrange(table, "(r c) d -> r c d", r=side)
    if filter_name in ("bicubic_pytorch", "bilinear_corners"):
        weights = _cubic_weights if filter_name == "bicubic_pytorch" else _corner_weights
        by_row, by_column = (jnp.asarray(weights(side, n)) for n in (rows, columns))
        precision = jax.lax.Precision.HIGHEST
        grid = jnp.einsum("ri,cj,ijd->rcd", by_row, by_column, grid, precision=precision)
    else:
        method = "cubic" if filter_name == "bicubic" else "linear"
        grid = jax.image.resize(grid, (rows, columns, table.shape[1]), method)
    return rearrange(grid, "r c d -> (r c) d").astype(table.dtype)


def _cubic_weights(size: int, cells: int) -> Float[np.ndarray, "cells size"]:
    """Cubic convolution (Keys 1981, a = -0.75) at the centres of `cells` over `size` entries.

    Entries outside the table are those at the edge, as in PyTorch's `interpolate(mode="bicubic")`.
    """
    a = -0.75
    centres = (np.arange(cells) + 0.5) * size / cells - 0.5
    first = np.floor(centres).astype(int)
    weights = np.zeros((cells, size), np.float32)
    for offset in range(-1, 3):
        x = np.abs(centres - first - offset)
        near = (a + 2) * x**3 - (a + 3) * x**2 + 1
        far = a * (x**3 - 5 * x**2 + 8 * x - 4)
        entry = np.clip(first + offset, 0, size - 1)
        np.add.at(weights, (np.arange(cells), entry), np.where(x <= 1, near, far))
    return weights


def _corner_weights(size: int, cells: int) -> Float[np.ndarray, "cells size"]:
    """Weights of the `size` entries for each of `cells`, whose first and last are the entries' own.

    As in PyTorch's `interpolate(mode="bilinear", align_corners=True)`.
    """
    at = np.arange(cells) * ((size - 1) / max(cells - 1, 1))
    weights = np.maximum(1 - np.abs(np.arange(size) - at[:, None]), 0)
    return weights.astype(np.float32)


def resample_at(
    table: Float[Array, "length embed"],
    positions: Int[Array, "batch patches 2"],
    grid: Int[Array, "batch 2"],
    filter_name: Literal["bilinear", "bilinear_corners"] = "bilinear",
) -> Float[Array, "batch patches embed"]:
    """A square table of positions, resampled to each image's own grid and read at its patches.

    Antialiased bilinear, as `resample_positions`, NaFlex (Tschannen et al. 2025, section 2.4.2) and
    PyTorch's `interpolate(mode="bilinear", antialias=True)`. Grids may differ between images and be
    finer than the table.

    Args:
      table: of a square grid, row-major.
      positions: row and column of each patch.
      grid: rows and columns of each image; positions outside are moved to the edge.
      filter_name: bilinear, or bilinear_corners, where the first and last cells of the grid are
        those of the table, without antialiasing: ViLT, and PyTorch with `align_corners=True`.
    """
    # Each patch has its own weights for all entries of the table, and one matrix product applies
    # them: no grid needs another compiled program. It needs (patches) x (table entries) floats.
    side = math.isqrt(table.shape[0])
    weights_of = _triangle_weights if filter_name == "bilinear" else _aligned_weights
    by_row, by_column = (
        weights_of(positions[..., axis], grid[:, axis], side, table.dtype) for axis in (0, 1)
    )
    weights = by_row[..., :, None] * by_column[..., None, :]
    weights = weights.reshape(*weights.shape[:-2], side * side)
    # By default a TPU rounds float32 factors of a product to 8 bits.
    return jnp.matmul(weights, table, precision=jax.lax.Precision.HIGH)


def _triangle_weights(
    index: Int[Array, "batch patches"], cells: Int[Array, "batch"], size: int, dtype: DTypeLike
) -> Float[Array, "batch patches size"]:
    """Weights of the entries of an axis for each cell of a resampled axis; they sum to 1.

    The filter is a triangle around the centre of the cell. Its half width is one entry of the
    coarser axis.

    Args:
      index: of the cell on the resampled axis.
      cells: length of the resampled axis.
      size: length of the original axis.
      dtype: type of the weights.
    """
    cells = jnp.maximum(cells, 1)[:, None]
    index = jnp.clip(index, 0, cells - 1)
    # In whole numbers until the division: for large indices, a rounded ratio would lose digits.
    centre = ((2 * index + 1) * size).astype(dtype) / (2 * cells).astype(dtype)
    reach = jnp.maximum(jnp.asarray(size, dtype) / cells.astype(dtype), 1)
    entries = jnp.arange(size, dtype=dtype) + 0.5
    weights = jax.nn.relu(1 - jnp.abs(entries - centre[..., None]) / reach[..., None])
    return weights / jnp.sum(weights, axis=-1, keepdims=True)


def _aligned_weights(
    index: Int[Array, "batch patches"], cells: Int[Array, "batch"], size: int, dtype: DTypeLike
) -> Float[Array, "batch patches size"]:
    """Linear weights of the entries of an axis for each cell of another axis with the same corners.

    The arguments are those of `_triangle_weights`.
    """
    steps = jnp.maximum(cells - 1, 1)[:, None]
    index = jnp.clip(index, 0, jnp.maximum(cells, 1)[:, None] - 1)
    at = (index * (size - 1)).astype(dtype) / steps.astype(dtype)
    return jax.nn.relu(1 - jnp.abs(jnp.arange(size, dtype=dtype) - at[..., None]))
