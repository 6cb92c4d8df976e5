"""Boxes and masks against counts of pixels, and errors."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vljax.config import UserError
from vljax.evaluation.metrics.grounding import (
    MaskAreas,
    box_iou,
    cumulative_iou,
    grounding_accuracy,
    mask_areas,
    mask_iou,
    pointing_hits,
)

EDGE = 9


@st.composite
def boxes(draw, smallest=1):
    left, top = draw(st.integers(0, EDGE - smallest)), draw(st.integers(0, EDGE - smallest))
    right, bottom = (
        draw(st.integers(left + smallest, EDGE)),
        draw(st.integers(top + smallest, EDGE)),
    )
    return np.array([left, top, right, bottom])


def painted(box):
    mask = np.zeros((EDGE, EDGE), bool)
    mask[box[1] : box[3], box[0] : box[2]] = True
    return mask


@given(boxes(smallest=0), boxes())
def test_the_iou_of_boxes_is_that_of_their_pixels(predicted, truth):
    areas = mask_areas([painted(predicted)], [painted(truth)])
    assert box_iou(predicted[None], truth[None])[0] == mask_iou(areas)[0]
    assert cumulative_iou(areas) == mask_iou(areas)[0]


def test_a_shared_edge_is_an_intersection_or_not():
    """MAttNet's computeIoU: from inclusive corners, x1 < x2 fails for one shared column."""
    predicted, truth = np.array([[0, 0, 4, 4]]), np.array([[3, 0, 7, 4]])
    assert box_iou(predicted, truth)[0] == 4 / 28
    assert box_iou(predicted, truth, overlap="over_one_pixel")[0] == 0
    assert box_iou(predicted, truth - [1, 0, 1, 0], overlap="over_one_pixel")[0] == 8 / 24


def test_exactly_half_is_right():
    iou = box_iou(np.array([[0, 0, 1, 2]]), np.array([[0, 0, 2, 2]]))
    assert iou[0] == 0.5
    assert grounding_accuracy(iou)[0] == 1
    assert grounding_accuracy(iou, at="wrong")[0] == 0


def test_large_objects_weigh_more_in_the_cumulative_iou():
    areas = MaskAreas(np.array([0, 90, 0]), np.array([10, 90, 0]))
    assert cumulative_iou(areas) == 0.9
    assert mask_iou(areas).tolist() == [0, 1, 0]
    assert mask_iou(areas, both_empty=1.0).tolist() == [0, 1, 1]


@given(boxes(), st.integers(0, EDGE), st.integers(0, EDGE), st.sampled_from([0.0, 1.0, 1.5, 3.0]))
def test_pointing_hits_if_a_pixel_of_the_box_is_within_the_tolerance(box, x, y, tolerance):
    rows, columns = np.nonzero(painted(box))
    near = (np.hypot(columns - x, rows - y) <= tolerance).any()
    hits = pointing_hits(np.array([[x, y]]), [box[None]], tolerance=tolerance)
    assert hits.tolist() == [float(near)]


def test_any_box_of_an_example_may_be_hit():
    several = [np.array([[0, 0, 2, 2], [50, 50, 60, 60]])]
    assert pointing_hits(np.array([[55, 55]]), several, tolerance=0).tolist() == [1]


GOOD = np.array([[0.0, 0, 4, 4]])
SIZE = np.array([[8, 6]])


@pytest.mark.parametrize(
    ("predicted", "truth", "message"),
    [
        (GOOD * np.nan, GOOD, r"predicted\[0, 0\] is nan"),
        (np.array([[5, 5, 2, 2]]), GOOD, r"predicted\[0\] is .* convert left, top, width, height"),
        (GOOD, np.array([[1, 1, 1, 4]]), r"truth\[0\] has no area"),
        (GOOD, np.array([[1, 1, 9, 4]]), r"truth\[0\] is .* overhangs its image of 8 x 6 pixels"),
        (np.array([[8, 0, 9, 4]]), GOOD, r"predicted\[0\] is .* is outside its image of 8 x 6"),
    ],
)
def test_bad_boxes_are_named(predicted, truth, message):
    with pytest.raises(UserError, match=message):
        box_iou(predicted, truth, sizes=SIZE)


def test_no_boxes_are_an_error():
    with pytest.raises(UserError, match="predicted: there are none"):
        box_iou(GOOD[:0], GOOD[:0])


def test_a_predicted_box_may_overhang():
    assert box_iou(np.array([[-1, 0, 9, 4]]), GOOD, sizes=SIZE)[0] == 16 / 40


def test_masks_of_other_sizes_are_an_error():
    with pytest.raises(UserError, match=r"predicted\[0\] is a mask of \(2, 2\) pixels"):
        mask_areas([np.ones((2, 2), bool)], [np.ones((3, 2), bool)])
    with pytest.raises(UserError, match=r"boxes\[0\]: there are none"):
        pointing_hits(np.zeros((1, 2)), [np.zeros((0, 4))])
