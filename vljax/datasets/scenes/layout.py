"""Where objects go. Nothing here knows what they are, so places tell nothing about names.

Each object gets a square cell and stands in its middle. Cells may overlap a little, their cores do
not. Relations are those of the cells: what holds for them holds for the objects inside.
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
        """The square in its middle that no other core overlaps."""
        side = int(self.side * _CORE)
        inset = (self.side - side) // 2
        return Cell(self.x + inset, self.y + inset, side)

    def start(self, axis: int) -> int:
        """The left (axis 0) or upper (axis 1) edge."""
        return (self.x, self.y)[axis]

    def middle(self, axis: int) -> float:
        """The middle along an axis."""
        return self.start(axis) + self.side / 2

    def overlaps(self, other: Cell) -> bool:
        """Whether two squares have a pixel in common."""
        reach = (self.side, other.side)
        return all(
            other.start(axis) - reach[0] < self.start(axis) < other.start(axis) + reach[1]
            for axis in (0, 1)
        )


def smallest_core(size: int, most_objects: int) -> int:
    """The least side of a core that `draw_cells` makes without shrinking, pixels."""
    return int(_CORE * int(_sides(most_objects)[0] * size))


def draw_cells(rng: np.random.Generator, count: int, size: int) -> list[Cell]:
    """Cells in a square image, all directions alike.

    Args:
      rng: where the draws come from.
      count: how many.
      size: of the image, pixels.
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
        low, high = 0.95 * low, 0.95 * high  # seldom


def _sides(count: int) -> tuple[float, float]:
    """Least and largest side of a cell, as a share of the image's."""
    high = LARGEST_SIDE / count**0.5
    return 0.55 * high, high


def lies(direction: str, cell: Cell, other: Cell, size: int) -> bool:
    """Whether a cell lies clearly in a direction from another: apart by 3 % of the image.

    Args:
      direction: left, right, above or below.
      cell: what lies there.
      other: seen from here.
      size: of the image, pixels.
    """
    axis, smaller = DIRECTIONS[direction]
    near, far = (cell, other) if smaller else (other, cell)
    return near.start(axis) + near.side + _MARGIN * size <= far.start(axis)


def clearly_not(direction: str, cell: Cell, other: Cell) -> bool:
    """Whether the middle of a cell lies the other way, or level."""
    axis, smaller = DIRECTIONS[direction]
    difference = cell.middle(axis) - other.middle(axis)
    return difference >= 0 if smaller else difference <= 0


def mainly(direction: str, cell: Cell, other: Cell) -> bool:
    """Whether two middles are at least twice as far apart along a direction as across it."""
    axis, _ = DIRECTIONS[direction]
    along, across = (abs(cell.middle(a) - other.middle(a)) for a in (axis, 1 - axis))
    return along >= 2 * across


def outermost(direction: str, cells: Sequence[Cell], size: int) -> int | None:
    """The cell that lies clearly in a direction from all the others."""
    for i, cell in enumerate(cells):
        if all(lies(direction, cell, other, size) for j, other in enumerate(cells) if j != i):
            return i
    return None
