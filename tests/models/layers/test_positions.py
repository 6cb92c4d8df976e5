from __future__ import annotations

import math

import jax.numpy as jnp
import numpy as np
import pytest

from tests.models import reference
from vljax.models.layers.inputs import resample_positions, sincos_2d


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
