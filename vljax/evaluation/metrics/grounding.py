"""Boxes, masks and points for expressions: accuracy at an IoU, mean and cumulative IoU, pointing.

Boxes are left, top, right and bottom in pixels; right and bottom are exclusive.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int, Num

from vljax.config import UserError
from vljax.evaluation.metrics.checks import (
    check_choice,
    check_finite,
    check_flags,
    check_same_length,
    check_shape,
)


def box_iou(
    predicted: Num[np.ndarray, "examples 4"],
    truth: Num[np.ndarray, "examples 4"],
    *,
    sizes: Num[np.ndarray, "examples 2"] | None = None,
    overlap: Literal["any", "over_one_pixel"] = "any",
) -> Float[np.ndarray, " examples"]:
    """Intersection over union of each predicted box with the true box of its example, in [0, 1].

    >>> box_iou(np.array([[0, 0, 2, 2]]), np.array([[1, 0, 3, 2]])).tolist()
    [0.3333333333333333]

    Args:
      predicted: one box an example. It may overhang its image, as in the official scorers.
      truth: the true boxes.
      sizes: width and height of each image; None to check nothing against them.
      overlap: "any", or "over_one_pixel": boxes that share at most one row or column of pixels do
        not intersect (`computeIoU` of refer and MAttNet).

    Raises:
      UserError: if there are no boxes, the numbers differ, one is NaN or infinite, a right or
        bottom edge is before its left or top one, a true box has no area or overhangs its image, or
        a predicted box is wholly outside its image.
    """
    check_same_length(predicted=predicted, truth=truth)
    check_choice(overlap, "overlap", "any", "over_one_pixel")
    _check_boxes(predicted, "predicted")
    _check_boxes(truth, "truth")
    predicted, truth = predicted.astype(np.float64), truth.astype(np.float64)
    empty = np.flatnonzero(_area(truth) == 0)
    if empty.size:
        raise UserError(f"truth[{empty[0]}] has no area: {truth[empty[0]].tolist()}")
    if sizes is not None:
        check_same_length(truth=truth, sizes=sizes)
        _check_inside(predicted, truth, sizes.astype(np.float64))
    corner = np.maximum(predicted[:, :2], truth[:, :2])
    shared = np.clip(np.minimum(predicted[:, 2:], truth[:, 2:]) - corner, 0, None)
    if overlap == "over_one_pixel":
        shared[(shared <= 1).any(axis=1)] = 0
    intersection = shared.prod(axis=1)
    return intersection / (_area(predicted) + _area(truth) - intersection)


def grounding_accuracy(
    iou: Float[np.ndarray, " examples"],
    *,
    threshold: float = 0.5,
    at: Literal["right", "wrong"] = "right",
) -> Float[np.ndarray, " examples"]:
    """1 for each example whose IoU reaches the threshold, else 0; their mean is RefCOCO's accuracy.

    As in the scorers of MAttNet, MDETR and TransVG, an IoU of exactly 0.5 is right.

    >>> grounding_accuracy(np.array([0.4, 0.5, 0.9])).tolist()
    [0.0, 1.0, 1.0]

    Args:
      iou: of each expression (`box_iou`).
      threshold: how much of the union must be shared.
      at: what an IoU equal to the threshold is; "wrong" in some scorers of language models.

    Raises:
      UserError: if there are none, or one is NaN.
    """
    check_finite(iou, "iou")
    check_choice(at, "at", "right", "wrong")
    return (iou >= threshold if at == "right" else iou > threshold).astype(np.float64)


class MaskAreas(NamedTuple):
    """Areas of pairs of masks in pixels."""

    intersection: Int[np.ndarray, " examples"]
    union: Int[np.ndarray, " examples"]


def mask_areas(
    predicted: Sequence[Bool[np.ndarray, "_ _"]], truth: Sequence[Bool[np.ndarray, "_ _"]]
) -> MaskAreas:
    """Intersection and union of each predicted mask with the true one, in pixels.

    >>> mask_areas([np.array([[True, True]])], [np.array([[True, False]])])
    MaskAreas(intersection=array([1]), union=array([2]))

    Args:
      predicted: one mask an example.
      truth: the true masks, of the same sizes.

    Raises:
      UserError: if there are no masks, numbers or sizes differ, or they are not booleans.
    """
    check_same_length(predicted=predicted, truth=truth)
    areas = np.zeros((2, len(truth)), np.int64)
    for i, (ours, right) in enumerate(zip(predicted, truth, strict=True)):
        if ours.shape != right.shape:
            raise UserError(
                f"predicted[{i}] is a mask of {ours.shape} pixels and truth[{i}] one of "
                f"{right.shape}; resize the prediction to its image"
            )
        check_flags(ours, f"predicted[{i}]")
        check_flags(right, f"truth[{i}]")
        areas[:, i] = (ours & right).sum(), (ours | right).sum()
    return MaskAreas(*areas)


def mask_iou(areas: MaskAreas, *, both_empty: float = 0.0) -> Float[np.ndarray, " examples"]:
    """IoU of each pair of masks, in [0, 1]; their mean is mIoU (gIoU in LISA and GRES).

    >>> mask_iou(MaskAreas(np.array([1, 0]), np.array([2, 0]))).tolist()
    [0.5, 0.0]

    Args:
      areas: from `mask_areas`.
      both_empty: the value where both masks are empty: 0 in refer and LAVT, 1 in GRES, whose
        expressions may refer to nothing.

    Raises:
      UserError: if there are none.
    """
    check_same_length(intersection=areas.intersection, union=areas.union)
    share = areas.intersection / np.maximum(areas.union, 1)
    return np.where(areas.union == 0, both_empty, share)


def cumulative_iou(areas: MaskAreas) -> float:
    """The sum of intersections over the sum of unions, in [0, 1] (overall IoU, cIoU).

    Large objects weigh more than in the mean IoU. It is 0 if all masks are empty.

    >>> cumulative_iou(MaskAreas(np.array([1, 8]), np.array([2, 8])))
    0.9

    Raises:
      UserError: if there are none.
    """
    check_same_length(intersection=areas.intersection, union=areas.union)
    return float(areas.intersection.sum() / max(areas.union.sum(), 1))


def pointing_hits(
    points: Num[np.ndarray, "examples 2"],
    boxes: Sequence[Num[np.ndarray, "boxes 4"]],
    *,
    tolerance: float = 15.0,
) -> Float[np.ndarray, " examples"]:
    """The pointing game: 1 for each point within `tolerance` pixels of one of its boxes, else 0.

    Zhang et al. 2016, with their 15 pixels. They average within each class and then over classes
    (`classification.mean_by_group`); phrase grounding averages over phrases, with tolerance 0.

    >>> points = np.array([[5, 5], [30, 5]])
    >>> boxes = [np.array([[0, 0, 10, 10]])] * 2
    >>> pointing_hits(points, boxes).tolist(), pointing_hits(points, boxes, tolerance=21).tolist()
    ([1.0, 0.0], [1.0, 1.0])

    Args:
      points: x and y of the pixel with the highest value in each map.
      boxes: the boxes of the right objects of each example, at least one.
      tolerance: Euclidean distance in pixels to the nearest pixel of a box.

    Raises:
      UserError: if there are no points, the numbers differ, an example has no box, or a number is
        NaN.
    """
    check_same_length(points=points, boxes=boxes)
    check_finite(points, "points")
    check_shape(points, "points", None, 2)
    hits = np.zeros(len(points))
    for i, (point, own) in enumerate(zip(points, boxes, strict=True)):
        _check_boxes(own, f"boxes[{i}]")
        nearest = np.clip(point, own[:, :2], own[:, 2:] - 1)
        hits[i] = (np.linalg.norm(point - nearest, axis=1) <= tolerance).any()
    return hits


def _area(boxes: Num[np.ndarray, "examples 4"]) -> Num[np.ndarray, " examples"]:
    return (boxes[:, 2:] - boxes[:, :2]).prod(axis=1)


def _check_boxes(boxes: Num[np.ndarray, "examples 4"], name: str) -> None:
    check_finite(boxes, name)
    check_shape(boxes, name, None, 4)
    turned = np.flatnonzero((boxes[:, 2:] < boxes[:, :2]).any(axis=1))
    if turned.size:
        i = int(turned[0])
        raise UserError(
            f"{name}[{i}] is {boxes[i].tolist()}: a box is left, top, right, bottom in pixels; "
            "convert left, top, width, height"
        )


def _check_inside(
    predicted: Float[np.ndarray, "examples 4"],
    truth: Float[np.ndarray, "examples 4"],
    sizes: Float[np.ndarray, "examples 2"],
) -> None:
    outside = ((truth[:, :2] < 0) | (truth[:, 2:] > sizes)).any(axis=1)
    for boxes, name, wrong, how in (
        (truth, "truth", outside, "overhangs"),
        (
            predicted,
            "predicted",
            ((predicted[:, 2:] <= 0) | (predicted[:, :2] >= sizes)).any(axis=1),
            "is outside",
        ),
    ):
        if wrong.any():
            i = int(np.flatnonzero(wrong)[0])
            width, height = (f"{edge:g}" for edge in sizes[i])
            raise UserError(
                f"{name}[{i}] is {boxes[i].tolist()} and {how} its image of {width} x {height} "
                "pixels; boxes are in pixels of the original image"
            )
