"""Lay out objects without knowing what they are, so that positions are independent of names.

Each object stands in the middle of a square cell. Cells may overlap a little, their cores do not.
Relations are defined between cells, and hold for the objects inside.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

LARGEST_SIDE = 0.8
MOST_OBJECTS = 9

_CORE = 0.7
_MARGIN = 0.03
_TRIES = 50

# Direction -> axis (0 across, 1 down) and whether it points to smaller coordinates.
DIRECTIONS = {"left": (0, True), "right": (0, False), "above": (1, True), "below": (1, False)}


@dataclass(frozen=True)
class Cell:
    """A square, in pixels."""

    x: int
    """Its left edge."""
    y: int
    """Its upper edge."""
    side: int
    """Its width and height."""

    @property
    def core(self) -> Cell:
        """The square in the middle of the cell that no other core overlaps."""
        side = int(self.side * _CORE)
        inset = (self.side - side) // 2
        return Cell(self.x + inset, self.y + inset, side)

    def start(self, axis: int) -> int:
        """The left (axis 0) or upper (axis 1) edge, pixels."""
        return (self.x, self.y)[axis]

    def middle(self, axis: int) -> float:
        """The middle along an axis, pixels."""
        return self.start(axis) + self.side / 2

    def overlaps(self, other: Cell) -> bool:
        """Whether two squares share a pixel."""
        reach = (self.side, other.side)
        return all(
            other.start(axis) - reach[0] < self.start(axis) < other.start(axis) + reach[1]
            for axis in (0, 1)
        )


def smallest_core(size: int, most_objects: int) -> int:
    """The smallest side of a core that `draw_cells` makes without shrinking cells, pixels."""
    return int(_CORE * int(_sides(most_objects)[0] * size))


def draw_cells(rng: np.random.Generator, count: int, size: int) -> list[Cell]:
    """Draw cells in a square image, with the same distribution in all directions.

    Args:
      rng: source of randomness.
      count: number of cells.
      size: width and height of the image, pixels.
    """
    low, high = _sides(count)
    while True:
        for _ in range(_TRIES):
            sides = (rng.uniform(low, high, count) * size).astype(int)
            corners = rng.integers(0, size - sides[:, None] + 1, (count, 2))
            cells = [
                Cell(x, y, side)
                for (x, y), side in zip(corners.tolist(), sides.tolist(), strict=True)
            ]
            cores = [cell.core for cell in cells]
            if not any(cores[i].overlaps(cores[j]) for i in range(count) for j in range(i)):
                return cells
        low, high = 0.95 * low, 0.95 * high  # rare: the cells did not fit


def _sides(count: int) -> tuple[float, float]:
    """Smallest and largest side of a cell, as a fraction of the image's."""
    high = LARGEST_SIDE / count**0.5
    return 0.55 * high, high


def lies(direction: str, cell: Cell, other: Cell, size: int) -> bool:
    """Whether a cell lies clearly in a direction from another: apart by 3 % of the image.

    Args:
      direction: left, right, above or below.
      cell: the cell in question.
      other: the cell that it is compared with.
      size: width and height of the image, pixels.
    """
    axis, smaller = DIRECTIONS[direction]
    near, far = (cell, other) if smaller else (other, cell)
    return near.start(axis) + near.side + _MARGIN * size <= far.start(axis)


def clearly_not(direction: str, cell: Cell, other: Cell) -> bool:
    """Whether the middle of a cell is level with another's, or lies in the opposite direction."""
    axis, smaller = DIRECTIONS[direction]
    difference = cell.middle(axis) - other.middle(axis)
    return difference >= 0 if smaller else difference <= 0


def mainly(direction: str, cell: Cell, other: Cell) -> bool:
    """Whether two cells are at least twice as far apart along a direction as across it."""
    axis, _ = DIRECTIONS[direction]
    along, across = (abs(cell.middle(a) - other.middle(a)) for a in (axis, 1 - axis))
    return along >= 2 * across


def outermost(direction: str, cells: Sequence[Cell], size: int) -> int | None:
    """Index of the cell that clearly lies in a direction from all others; None if there is none."""
    for i, cell in enumerate(cells):
        if all(lies(direction, cell, other, size) for j, other in enumerate(cells) if j != i):
            return i
    return None
