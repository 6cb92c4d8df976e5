"""Winoground and caption choice against their definitions, with ties."""

import hypothesis.extra.numpy as arrays
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vljax.config import UserError
from vljax.evaluation.metrics.compositional import caption_choice, winoground

SCORES = arrays.arrays(
    np.float64, st.tuples(st.integers(1, 5), st.just(2), st.just(2)), elements=st.integers(0, 2)
)


@given(SCORES)
def test_winoground_equals_equations_1_to_3(scores):
    found = winoground(scores)
    for i, ((c0_i0, c0_i1), (c1_i0, c1_i1)) in enumerate(scores.tolist()):
        assert found.text[i] == (c0_i0 > c1_i0 and c1_i1 > c0_i1)
        assert found.image[i] == (c0_i0 > c0_i1 and c1_i1 > c1_i0)
        assert found.group[i] == (found.text[i] and found.image[i])


@given(SCORES)
def test_captions_and_images_change_places_with_the_scores(scores):
    found, turned = winoground(scores), winoground(scores.swapaxes(1, 2))
    assert found.text.tolist() == turned.image.tolist()
    assert found.group.tolist() == turned.group.tolist()


def test_ties_are_wrong_unless_asked_for():
    assert winoground(np.ones((1, 2, 2))).group.tolist() == [0]
    right, wrong = np.array([2.0, 1, 1]), np.array([1.0, 1, 2])
    assert caption_choice(right, wrong).tolist() == [1, 0, 0]
    assert caption_choice(right, wrong, ties="right").tolist() == [1, 1, 0]


def test_bad_scores_are_named():
    with pytest.raises(UserError, match=r"scores\[0, 1, 0\] is nan"):
        winoground(np.array([[[1, 1], [np.nan, 1]]]))
    with pytest.raises(UserError, match="scores: there are none"):
        winoground(np.zeros((0, 2, 2)))
    with pytest.raises(UserError, match=r"wrong\[1\] is inf"):
        caption_choice(np.ones(2), np.array([1, np.inf]))
