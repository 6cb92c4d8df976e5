"""Accuracy by hand and against a count with dictionaries."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vljax.evaluation.metrics.classification import mean_per_class_recall, top_k_accuracy


def test_top_k_accuracy_worked_by_hand():
    ranks = np.array([1, 1, 3, 5, 6])
    assert [top_k_accuracy(ranks, k) for k in (1, 3, 5)] == [0.4, 0.6, 0.8]


def test_each_class_weighs_the_same():
    """Class 0: 4 of 4 right; class 2: 0 of 1; class 1 has no examples and does not count."""
    ranks, labels = np.array([1, 1, 1, 1, 2]), np.array([0, 0, 0, 0, 2])
    assert mean_per_class_recall(ranks, labels) == 0.5
    assert top_k_accuracy(ranks, 1) == 0.8


@given(st.lists(st.tuples(st.integers(1, 3), st.integers(0, 4)), min_size=1))
def test_mean_per_class_recall_equals_a_count(pairs):
    by_class: dict[int, list[bool]] = {}
    for rank, label in pairs:
        by_class.setdefault(label, []).append(rank == 1)
    expected = sum(sum(right) / len(right) for right in by_class.values()) / len(by_class)
    ranks, labels = np.array(pairs).T
    assert mean_per_class_recall(ranks, labels) == pytest.approx(expected, abs=1e-12)


def test_no_examples_are_an_error():
    none = np.zeros(0, np.int64)
    with pytest.raises(ValueError, match="no examples"):
        top_k_accuracy(none, 1)
    with pytest.raises(ValueError, match="no examples"):
        mean_per_class_recall(none, none)
