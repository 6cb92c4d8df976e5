from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.models import reference
from vljax.models.layers.inputs import resample_at, resample_positions, sincos_2d


def normal(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


@pytest.mark.parametrize(("rows", "columns", "width"), [(3, 5, 16), (1, 1, 8), (24, 24, 192)])
def test_sincos_positions(rows: int, columns: int, width: int) -> None:
    """float32 angles of up to 23 rad are good to 1e-6, and so was what was measured."""
    ours = sincos_2d(rows, columns, width)
    theirs = reference.sincos_2d(rows, columns, width)
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=3e-6)


@pytest.mark.parametrize("width", [4, 6, 30])
def test_sincos_positions_refuse_other_widths(width: int) -> None:
    with pytest.raises(ValueError, match=rf"need a width of 8, 12, 16, \.\.\., not {width}"):
        sincos_2d(2, 2, width)


def test_positions_of_the_same_grid_stay_as_they_are() -> None:
    table = jnp.asarray(normal(16, 8))
    assert resample_positions(table, 4, 4) is table


@pytest.mark.parametrize("grid", [(7, 7), (2, 2), (3, 6), (9, 1)])
def test_resampling_keeps_a_constant(grid: tuple[int, int]) -> None:
    row = normal(8)
    ours = resample_positions(jnp.asarray(np.tile(row, (16, 1))), *grid)
    np.testing.assert_allclose(ours, np.tile(row, (math.prod(grid), 1)), rtol=0, atol=5e-7)


@pytest.mark.parametrize("grid", [(7, 7), (2, 2), (3, 6), (12, 3), (1, 4)])
def test_resampling_is_antialiased_bilinear(grid: tuple[int, int]) -> None:
    """Against Pillow, whose bilinear filter widens when it shrinks an image."""
    table = normal(36, 8)
    ours = resample_positions(jnp.asarray(table), *grid)
    np.testing.assert_allclose(ours, reference.resample(table, *grid), rtol=0, atol=1e-6)


# --- Corners of the table at the corners of the image (ViLT) ---

GRIDS = [(4, 4), (7, 7), (2, 2), (3, 6), (12, 3), (1, 4), (6, 1)]


def between_corners(table: np.ndarray, rows: int, columns: int) -> np.ndarray:
    """Linear interpolation along both axes, in float64 by NumPy."""
    side = math.isqrt(len(table))
    grid = table.reshape(side, side, -1).astype(np.float64)
    for axis, cells in enumerate((rows, columns)):
        at = np.linspace(0, side - 1, cells) if cells > 1 else np.zeros(1)
        grid = np.apply_along_axis(lambda x, at=at: np.interp(at, np.arange(side), x), axis, grid)
    return grid.reshape(rows * columns, -1)


@pytest.mark.parametrize("grid", GRIDS)
def test_positions_with_the_corners_of_the_table(grid: tuple[int, int]) -> None:
    table = normal(16, 8)
    wanted = between_corners(table, *grid)
    ours = jax.jit(lambda table: resample_positions(table, *grid, "bilinear_corners"))(table)
    np.testing.assert_allclose(ours, wanted, rtol=0, atol=2e-6)


def test_each_image_of_a_batch_has_a_grid_of_its_own() -> None:
    """Padding, at row and column 0, is not compared."""
    table, length = normal(16, 8), 49
    positions = np.zeros((len(GRIDS), length, 2), np.int32)
    for places, (rows, columns) in zip(positions, GRIDS, strict=True):
        places[: rows * columns] = np.indices((rows, columns)).reshape(2, -1).T
    grids = jnp.asarray(GRIDS)
    ours = resample_at(jnp.asarray(table), jnp.asarray(positions), grids, "bilinear_corners")
    for found, (rows, columns) in zip(ours, GRIDS, strict=True):
        wanted = between_corners(table, rows, columns)
        np.testing.assert_allclose(found[: rows * columns], wanted, rtol=0, atol=2e-6)
