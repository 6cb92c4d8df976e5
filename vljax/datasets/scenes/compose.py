"""Turn the content of a scene into pixels, masks and boxes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import UInt8

from vljax.datasets.scenes.content import Content
from vljax.datasets.scenes.cutouts import VISIBLE_ALPHA, fit
from vljax.datasets.scenes.layout import Cell

Patch = UInt8[np.ndarray, "height width 4"]


@dataclass(frozen=True)
class Composed:
    """Scaled objects at their positions, with masks."""

    patches: tuple[Patch, ...]
    """The scaled pictures, multiplied by alpha, from back to front."""
    corners: tuple[tuple[int, int], ...]
    """Left and upper edge of each patch, pixels."""
    masks: UInt8[np.ndarray, "size size"]
    """`i + 1` where object i is visible, else 0."""

    def boxes(self) -> list[tuple[int, int, int, int]]:
        """Left, top, right and bottom of the visible part of each object, pixels."""
        boxes = []
        for number in range(1, len(self.patches) + 1):
            seen = self.masks == number
            rows, columns = (np.flatnonzero(seen.any(axis)).tolist() for axis in (1, 0))
            boxes.append((columns[0], rows[0], columns[-1] + 1, rows[-1] + 1))
        return boxes

    def paint(self, background: UInt8[np.ndarray, "size size 3"]) -> UInt8[np.ndarray, "s s 3"]:
        """Paint the objects onto a background."""
        image = background.copy()
        for patch, (x, y) in zip(self.patches, self.corners, strict=True):
            height, width = patch.shape[:2]
            part = image[y : y + height, x : x + width]
            behind = part.astype(np.uint16) * (255 - patch[..., 3:].astype(np.uint16))
            part[...] = np.minimum(patch[..., :3] + (behind + 127) // 255, 255)
        return image


def compose(content: Content, min_visible: float) -> Composed:
    """Put objects into their cells.

    If less than `min_visible` of an object is visible, all objects shrink into the cores of their
    cells, which do not overlap. Cells and their order stay the same, so that only sizes depend on
    which objects they hold.
    """
    cells = [item.cell for item in content.objects]
    composed = _place(content, cells)
    if _least_visible(composed) < min_visible:
        composed = _place(content, [cell.core for cell in cells])
    return composed


def _place(content: Content, cells: list[Cell]) -> Composed:
    patches, corners = [], []
    masks = np.zeros((content.size, content.size), np.uint8)
    for number, (item, cell) in enumerate(zip(content.objects, cells, strict=True), 1):
        patch = fit(item.cutout.pixels, cell.side)
        height, width = patch.shape[:2]
        x, y = cell.x + (cell.side - width) // 2, cell.y + (cell.side - height) // 2
        masks[y : y + height, x : x + width][patch[..., 3] >= VISIBLE_ALPHA] = number
        patches.append(patch)
        corners.append((x, y))
    return Composed(tuple(patches), tuple(corners), masks)


def _least_visible(composed: Composed) -> float:
    """The smallest visible fraction of an object."""
    seen = np.bincount(composed.masks.ravel(), minlength=len(composed.patches) + 1)[1:]
    whole = [int((patch[..., 3] >= VISIBLE_ALPHA).sum()) for patch in composed.patches]
    return float((seen / whole).min())
