"""The figure of example queries with the images that a model ranks first."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import UInt8

from vljax.charts import GREEN, GREY, new_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

THUMBNAIL = 128
"""Width and height of the images in pixels."""


@dataclass(frozen=True)
class GridRow:
    """One query and its results."""

    query: str
    """The caption."""
    truth: UInt8[np.ndarray, "size size 3"]
    """The first image with the caption."""
    found: tuple[UInt8[np.ndarray, "size size 3"], ...]
    """The images ranked first, best first."""
    hits: tuple[bool, ...]
    """Which of these images have the caption."""
    rank: int
    """The best rank of an image with the caption, from 1, ties against the model."""


def draw_grid(rows: Sequence[GridRow]) -> Figure:
    """Draws at least one query with the images found for it; hits have a thick green frame."""
    columns = 2 + max(len(row.found) for row in rows)
    figure = new_figure(2.6 + 1.25 * (columns - 1), 0.7 + 1.2 * len(rows))
    figure.suptitle("Images found for captions (thick green frame: right)", fontsize=11)
    ratios = [2.0, *[1.0] * (columns - 1)]
    grid = figure.subplots(len(rows), columns, squeeze=False, width_ratios=ratios)
    for axes in grid.flat:
        axes.set(xticks=[], yticks=[])
        axes.spines[:].set_visible(False)
    for line, row in zip(grid, rows, strict=True):
        _caption(line[0], row)
        _image(line[1], row.truth, "black", 1.0)
        for axes, image, hit in zip(line[2:], row.found, row.hits, strict=False):
            _image(axes, image, GREEN if hit else GREY, 5.0 if hit else 1.0)
    grid[0][1].set_title("true image", fontsize=9)
    for rank, axes in enumerate(grid[0][2:], start=1):
        axes.set_title(f"found {rank}", fontsize=9)
    return figure


def _caption(axes: Axes, row: GridRow) -> None:
    lines = textwrap.wrap(row.query, width=24, max_lines=5, placeholder=" …")
    text = "\n".join([*lines, f"(first hit at rank {row.rank:,})"])
    # A dollar sign in a caption does not start a formula.
    axes.text(0, 0.5, text, fontsize=9, va="center", transform=axes.transAxes, parse_math=False)


def _image(axes: Axes, image: UInt8[np.ndarray, "size size 3"], colour: str, width: float) -> None:
    axes.imshow(image, interpolation="antialiased")
    axes.spines[:].set(visible=True, color=colour, linewidth=width)
