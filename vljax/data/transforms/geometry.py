"""Boxes and masks that move with the pixels of an image.

After `Regions`, an example has `boxes`, float32[n, 4] (left, top, right, bottom in pixels), and
where the record has masks, `masks`, uint8[height, width] (i + 1 where region i is visible). Each
transform that moves pixels calls a function of this file.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from jaxtyping import Float, Float64, UInt8

from vljax.data.images import Box

Matrix = Float64[np.ndarray, "2 3"]
"""Maps x, y of the new image to the old one: x' = a x + b y + c, y' = d x + e y + f."""


def crop_regions(example: dict[str, Any], box: Box, height: int, width: int) -> dict[str, Any]:
    """The regions after a part of the image became a new image.

    >>> example = {"boxes": np.array([[10, 0, 30, 20], [0, 0, 5, 5]], np.float32)}
    >>> crop_regions(example, Box(top=0, left=10, height=40, width=40), 80, 80)["boxes"].tolist()
    [[0.0, 0.0, 40.0, 40.0], [0.0, 0.0, 0.0, 0.0]]

    Args:
      example: the example before.
      box: the part, in pixels of the old image; where it is outside, there is padding.
      height: height of the new image.
      width: width of the new image.

    Returns:
      `boxes` and `masks`, if the example has them.
    """
    y, x = box.height / height, box.width / width
    return warp_regions(
        example, np.array([[x, 0, box.left], [0, y, box.top]], np.float64), height, width
    )


def mirror_regions(example: dict[str, Any], height: int, width: int) -> dict[str, Any]:
    """The regions of an image that is mirrored left to right.

    >>> example = {"boxes": np.array([[1, 2, 3, 4]], np.float32)}
    >>> mirror_regions(example, height=8, width=10)["boxes"].tolist()
    [[7.0, 2.0, 9.0, 4.0]]
    """
    return warp_regions(example, np.array([[-1, 0, width], [0, 1, 0]], np.float64), height, width)


def warp_regions(
    example: dict[str, Any], matrix: Matrix, height: int, width: int
) -> dict[str, Any]:
    """The regions of an image whose pixels were moved by an affine map.

    A moved box is the smallest that holds the corners of the old one, clipped to the image. A box
    outside the image becomes empty, and its region leaves the masks.

    Args:
      example: the example before.
      matrix: maps coordinates of the new image to those of the old one.
      height: height of the new image.
      width: width of the new image.

    Returns:
      `boxes` and `masks`, if the example has them.
    """
    if "boxes" not in example:
        return {}
    boxes = _warped_boxes(example["boxes"], matrix, height, width)
    if "masks" not in example:
        return {"boxes": boxes}
    masks = _warped_masks(example["masks"], matrix, height, width)
    kept = np.concatenate([[True], box_areas(boxes) > 0])
    known = np.where(kept, np.arange(len(kept)), 0).astype(np.uint8)
    return {"boxes": boxes, "masks": known[masks]}


def box_areas(boxes: Float[np.ndarray, "regions 4"]) -> Float[np.ndarray, " regions"]:
    """The area of each box; 0 for an empty one."""
    areas: np.ndarray = np.prod(np.maximum(boxes[:, 2:] - boxes[:, :2], 0), axis=1)
    return areas


def _warped_boxes(
    boxes: Float[np.ndarray, "regions 4"], matrix: Matrix, height: int, width: int
) -> Float[np.ndarray, "regions 4"]:
    forward = np.linalg.inv(matrix[:, :2])
    corners = boxes[:, [[0, 1], [2, 1], [0, 3], [2, 3]]].astype(np.float64)
    moved = (corners - matrix[:, 2]) @ forward.T
    limits = np.array([width, height])
    low, high = (np.clip(edge, 0, limits) for edge in (moved.min(axis=1), moved.max(axis=1)))
    inside = (high > low).all(axis=1) & (box_areas(boxes) > 0)
    return np.where(inside[:, None], np.hstack([low, high]), 0).astype(np.float32)


def _warped_masks(
    masks: UInt8[np.ndarray, "old_height old_width"], matrix: Matrix, height: int, width: int
) -> UInt8[np.ndarray, "height width"]:
    """The nearest pixel for each new one; 0 outside the old image."""
    x, y = np.arange(width) + 0.5, np.arange(height)[:, None] + 0.5
    columns = np.floor(matrix[0, 0] * x + matrix[0, 1] * y + matrix[0, 2]).astype(np.int64)
    rows = np.floor(matrix[1, 0] * x + matrix[1, 1] * y + matrix[1, 2]).astype(np.int64)
    inside = (rows >= 0) & (rows < masks.shape[0]) & (columns >= 0) & (columns < masks.shape[1])
    moved = masks[rows.clip(0, masks.shape[0] - 1), columns.clip(0, masks.shape[1] - 1)]
    return np.where(inside, moved, 0).astype(np.uint8)
