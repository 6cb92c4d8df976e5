"""From the content of a scene to pixels, masks and boxes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import UInt8

from vljax.datasets.scenes.content import Content
from vljax.datasets.scenes.cutouts import SEEN_ALPHA, fit
from vljax.datasets.scenes.layout import Cell

Patch = UInt8[np.ndarray, "height width 4"]


@dataclass(frozen=True)
class Composed:
    """Objects in their places."""

    patches: tuple[Patch, ...]
    """The pictures, scaled, multiplied by alpha; from back to front."""
    corners: tuple[tuple[int, int], ...]
    """Left and upper edge of each."""
    masks: UInt8[np.ndarray, "size size"]
    """I + 1 where object i is seen, else 0."""

    def boxes(self) -> list[tuple[int, int, int, int]]:
        """Left, top, right and bottom of what is seen of each object."""
        boxes = []
        for number in range(1, len(self.patches) + 1):
            seen = self.masks == number
            rows, columns = (np.flatnonzero(seen.any(axis)).tolist() for axis in (1, 0))
            boxes.append((columns[0], rows[0], columns[-1] + 1, rows[-1] + 1))
        return boxes

    def paint(self, background: UInt8[np.ndarray, "size size 3"]) -> UInt8[np.ndarray, "s s 3"]:
        """The image."""
        image = background.copy()
        for patch, (x, y) in zip(self.patches, self.corners, strict=True):
            height, width = patch.shape[:2]
            part = image[y : y + height, x : x + width]
            behind = part.astype(np.uint16) * (255 - patch[..., 3:].astype(np.uint16))
            part[...] = np.minimum(patch[..., :3] + (behind + 127) // 255, 255)
        return image


def compose(content: Content, min_visible: float) -> Composed:
    """Puts objects into their cells.

    An object of which less than `min_visible` is seen moves into the core of its cell, and so does
    every other, so that nothing is hidden any more: cores do not overlap. Cells and their order
    stay, so nothing depends on names but the size.
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
        masks[y : y + height, x : x + width][patch[..., 3] >= SEEN_ALPHA] = number
        patches.append(patch)
        corners.append((x, y))
    return Composed(tuple(patches), tuple(corners), masks)


def _least_visible(composed: Composed) -> float:
    """The least share of an object that is seen."""
    seen = np.bincount(composed.masks.ravel(), minlength=len(composed.patches) + 1)[1:]
    whole = [int((patch[..., 3] >= SEEN_ALPHA).sum()) for patch in composed.patches]
    return float((seen / whole).min())
