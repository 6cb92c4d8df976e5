"""Accuracy by hand and against a count with dictionaries."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vljax.config import UserError
from vljax.evaluation.metrics.classification import (
    accuracy,
    accuracy_coverage,
    auroc,
    average_precision,
    expected_calibration_error,
    f1_score,
    label_ranks,
    mean_average_precision,
    mean_by_group,
    mean_per_class_recall,
    mean_squared_error,
    multi_label_f1,
    perplexity,
    top_k_accuracy,
    worst_group,
)


def test_top_k_accuracy_worked_by_hand():
    ranks = np.array([1, 1, 3, 5, 6])
    assert [top_k_accuracy(ranks, k) for k in (1, 3, 5)] == [0.4, 0.6, 0.8]


@given(st.integers(0, 2**32 - 1))
def test_f1_of_several_labels_from_precision_and_recall(seed):
    rng = np.random.default_rng(seed)
    predicted, labels = rng.random((2, 7, 4)) < rng.random((2, 1, 4))

    def score(given, true):
        hits = sum(g and t for g, t in zip(given, true, strict=True))
        if not hits:
            return 0.0
        precision, recall = hits / sum(given), hits / sum(true)
        return 2 * precision * recall / (precision + recall)

    expected = {
        "macro": np.mean([score(predicted[:, i], labels[:, i]) for i in range(4)]),
        "micro": score(predicted.ravel(), labels.ravel()),
        "samples": np.mean([score(predicted[i], labels[i]) for i in range(7)]),
    }
    for average, value in expected.items():
        found = multi_label_f1(predicted, labels, average=average)
        assert found == pytest.approx(value, abs=1e-12), average


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


SCORED = st.lists(st.tuples(st.integers(-2, 2), st.booleans()), min_size=2, max_size=12)


@given(SCORED)
def test_auroc_counts_pairs_and_average_precision_thresholds(rows):
    scores, positives = np.array([s for s, _ in rows]), np.array([p for _, p in rows])
    own, others = scores[positives], scores[~positives]
    if len(own) and len(others):
        above = [(s > t) + (s == t) / 2 for s in own for t in others]
        assert auroc(scores, positives) == pytest.approx(np.mean(above), abs=1e-12)
        assert auroc(-scores, positives) == pytest.approx(1 - np.mean(above), abs=1e-12)
    if len(own):
        area, before = 0.0, 0.0
        for level in sorted({*scores.tolist()}, reverse=True):
            recall = np.mean(own >= level)
            area += (recall - before) * positives[scores >= level].mean()
            before = recall
        assert average_precision(scores, positives) == pytest.approx(area, abs=1e-12)


def test_a_class_without_examples_is_an_error_a_zero_or_left_out():
    scores, labels = np.array([[0.9, 0.1], [0.2, 0.3]]), np.array([[True, False], [False, False]])
    with pytest.raises(UserError, match="1 of 2 classes have no example, the first is 1"):
        mean_average_precision(scores, labels)
    assert mean_average_precision(scores, labels, empty="zero") == 0.5
    assert mean_average_precision(scores, labels, empty="skip") == 1.0
    with pytest.raises(UserError, match="no class has an example"):
        mean_average_precision(scores, labels & False, empty="skip")


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), min_size=1, max_size=20))
def test_f1_equals_its_definition(pairs):
    given_, truth = np.array(pairs).T
    scores = []
    for c in sorted({*given_.tolist(), *truth.tolist()}):
        hits = ((given_ == c) & (truth == c)).sum()
        wrong = ((given_ == c) != (truth == c)).sum()
        scores.append(2 * hits / (2 * hits + wrong))
    assert f1_score(given_, truth) == pytest.approx(np.mean(scores), abs=1e-12)
    of_all = f1_score(given_, truth, classes=6)
    assert of_all == pytest.approx(np.sum(scores) / 6, abs=1e-12)
    assert f1_score(given_, truth, average="micro") == pytest.approx(accuracy(given_, truth))


def test_ties_of_classes():
    scores, labels = np.array([[1.0, 1.0, 0.0]] * 2), np.array([0, 1])
    assert label_ranks(scores, labels).tolist() == [2, 2]
    assert label_ranks(scores, labels, ties="first").tolist() == [1, 2]


@given(st.lists(st.tuples(st.integers(0, 10), st.booleans()), min_size=1, max_size=30))
def test_calibration_error_equals_a_loop_over_bins(rows):
    confidence = np.array([c / 10 for c, _ in rows])
    right = np.array([ok for _, ok in rows])
    error = 0.0
    edges = np.linspace(0, 1, 8)
    for low, high in itertools.pairwise(edges):
        inside = (confidence > low) & (confidence <= high)
        if inside.any():
            error += inside.mean() * abs(right[inside].mean() - confidence[inside].mean())
    found = expected_calibration_error(confidence, right, bins=7)
    assert found == pytest.approx(error, abs=1e-12)


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 4)), min_size=1, max_size=30))
def test_accuracy_by_coverage_equals_a_loop_over_thresholds(rows):
    confidence, credit = (np.array(column) / 5 for column in zip(*rows, strict=True))
    found = accuracy_coverage(confidence, credit)
    thresholds = sorted(set(confidence.tolist()), reverse=True)
    assert found.threshold.tolist() == thresholds
    by_threshold = {t: credit[confidence >= t] for t in thresholds}
    np.testing.assert_allclose(found.coverage, [len(c) / len(rows) for c in by_threshold.values()])
    np.testing.assert_allclose(found.accuracy, [c.mean() for c in by_threshold.values()])
    assert found.area == pytest.approx(np.mean([by_threshold[c].mean() for c in confidence]))


def test_worst_group_and_mean_by_group():
    values, groups = np.array([1.0, 0, 0, 1, 1]), ["a", "a", "b", "c", "c"]
    assert worst_group(values, groups) == (0.0, "b", 1)
    assert worst_group(values, groups, smallest=2) == (0.5, "a", 2)
    with pytest.raises(UserError, match="no group has as many examples; the largest has 2"):
        worst_group(values, groups, smallest=3)
    assert mean_by_group(values, np.array([0, 0, 1, 2, 2])) == 0.5


def test_perplexity_over_tokens_and_over_texts():
    """Tokens of 1, 1 and 4 bits; the masked one would be infinite."""
    likelihood = np.log([[0.5, 0.5], [1 / 16, 0.0 + 1e-300]])
    likelihood[1, 1] = -np.inf
    mask = np.array([[True, True], [True, False]])
    found = perplexity(likelihood, mask)
    assert found.bits_per_token == pytest.approx(2)
    assert found.perplexity == pytest.approx(4)
    assert found.tokens == 3
    assert perplexity(likelihood, mask, over="texts").bits_per_token == pytest.approx(2.5)
    with pytest.raises(UserError, match=r"mask\[1\]: the text has no token"):
        perplexity(likelihood, np.array([[True, True], [False, False]]), over="texts")


ONE, NONE = np.ones(1), np.zeros(0)
YES, NEITHER = np.array([True]), np.zeros(0, bool)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: top_k_accuracy(NONE.astype(int), 1), "ranks: there are none"),
        (lambda: mean_per_class_recall(*[NONE.astype(int)] * 2), "values: there are none"),
        (lambda: accuracy(*[NONE.astype(int)] * 2), "predicted: there are none"),
        (lambda: f1_score(np.array([-1]), np.array([0])), r"predicted\[0\] is -1; with 1 classes"),
        (lambda: f1_score(np.array([0]), np.array([3]), classes=3), r"labels\[0\] is 3"),
        (lambda: label_ranks(np.ones((1, 2)), np.array([2])), r"labels\[0\] is 2"),
        (lambda: label_ranks(np.full((1, 2), np.nan), np.array([0])), r"scores\[0, 0\] is nan"),
        (lambda: mean_squared_error(ONE, ONE * np.inf), r"truth\[0\] is inf"),
        (lambda: average_precision(ONE, ~YES), "positives: there are none"),
        (lambda: auroc(ONE, YES), "positives: 1 of 1 examples; AUROC needs both"),
        (lambda: auroc(ONE * np.nan, YES), r"scores\[0\] is nan"),
        (lambda: expected_calibration_error(2 * ONE, YES), r"confidence\[0\] is 2.0; give prob"),
        (lambda: expected_calibration_error(NONE, NEITHER), "confidence: there are none"),
        (lambda: accuracy_coverage(NONE, NONE), "confidence: there are none"),
        (lambda: accuracy_coverage(ONE, ONE * np.nan), r"credit\[0\] is nan"),
        (lambda: perplexity(ONE[None], YES[None]), "log_likelihood: 1.0 is above 0"),
        (lambda: perplexity(ONE[None], ~YES[None]), "of the tokens in the mask: there are none"),
    ],
)
def test_bad_input_is_named(call, message):
    with pytest.raises(UserError, match=message):
        call()
