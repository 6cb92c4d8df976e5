"""Probes against float64 loops and equations, and errors; scikit-learn is in tests/parity."""

import numpy as np
import pytest

from tests.parity import metric_cases as cases
from vljax.config import UserError
from vljax.evaluation.metrics.probes import (
    few_shot_right,
    knn_votes,
    linear_probe,
    logistic_regression,
)

X, Y, X_TEST, Y_TEST = cases.features()


def test_the_gradient_is_0_at_the_fit():
    """Of the mean cross-entropy + |W|^2 / (2 c n), in float64."""
    fit = logistic_regression(X, Y, c=0.5)
    logits = X.astype(np.float64) @ fit.weights + fit.bias
    exp = np.exp(logits - logits.max(axis=1, keepdims=True))
    error = (exp / exp.sum(axis=1, keepdims=True) - np.eye(6)[Y]) / len(Y)
    gradient = X.T @ error + fit.weights / (0.5 * len(Y))
    assert np.abs(gradient).max() < 1e-5
    assert np.abs(error.sum(axis=0)).max() < 1e-5


def test_the_sweep_is_chosen_on_the_validation_split_alone():
    """Regularisation at which the fit predicts one class is worse, and is not chosen."""
    train, validation = (X[:120], Y[:120]), (X[120:], Y[120:])
    found = linear_probe(train, validation, (X_TEST, Y_TEST), sweep=(0.1, 1e-6))
    assert found.c == 0.1
    assert found.validation[1] > found.validation[0]
    both = logistic_regression(X, Y, c=0.1)
    right = both.scores(X_TEST).argmax(axis=1) == Y_TEST
    assert found.right.tolist() == right.tolist()
    assert found.accuracy == right.mean()
    alone = linear_probe(train, validation, (X_TEST, Y_TEST), sweep=(0.1,), refit="no")
    assert alone.right.tolist() != found.right.tolist()
    again = linear_probe(train, validation, (X_TEST, Y_TEST), sweep=(0.1, 1e-6))
    assert again.right.tolist() == found.right.tolist()


@pytest.mark.parametrize("chunk", [1, 1000, 1 << 24])
def test_votes_of_neighbours_equal_a_loop(chunk):
    votes = knn_votes(X, Y, X_TEST[:7], k=5, chunk_elements=chunk, classes=7)
    for found, row in zip(votes, X_TEST[:7].astype(np.float64), strict=True):
        cosine = X @ row / np.linalg.norm(X, axis=1) / np.linalg.norm(row)
        expected = np.zeros(7)
        for i in np.argsort(-cosine)[:5]:
            expected[Y[i]] += np.exp((cosine[i] - cosine.max()) / 0.07)
        assert found == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("shots", [1, 20])
def test_few_shots_equal_the_normal_equations(shots):
    """Fewer and more examples than features: 6 and 120 of 25."""
    rng = np.random.default_rng(4)
    order = [rng.permutation(np.flatnonzero(c == Y))[:shots] for c in range(6)]
    x, y = X[np.concatenate(order)].astype(np.float64), Y[np.concatenate(order)]
    mean, deviation = x.mean(axis=0), x.std(axis=0) + 1e-5
    x, x_test = (np.pad((a - mean) / deviation, ((0, 0), (0, 1)), constant_values=100)
                 for a in (x, X_TEST.astype(np.float64)))  # fmt: skip
    weights = np.linalg.solve(x.T @ x + 8 * np.eye(25), x.T @ (2 * np.eye(6)[y] - 1))
    expected = ((x_test @ weights).argmax(axis=1) == Y_TEST).mean()
    found = few_shot_right((X, Y), (X_TEST, Y_TEST), shots=(shots,), l2=(8.0,), seeds=(4,)).mean(
        axis=-1
    )
    assert found == pytest.approx(expected, abs=1.01 / 300)


GAP = np.where(Y == 2, 3, Y)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: logistic_regression(X * np.nan, Y), r"features\[0, 0\] is nan"),
        (lambda: logistic_regression(X, GAP), "1 of 6 classes have no example, the first is 2"),
        (lambda: logistic_regression(X, Y, classes=3), r"features labels\[.*with 3 classes"),
        (lambda: logistic_regression(X, Y, c=0.0), "c: must be above 0"),
        (lambda: linear_probe((X, Y), (X, Y), (X, Y), sweep=()), "sweep: is empty"),
        (lambda: linear_probe((X, Y), (X, Y + 1), (X, Y)), r"validation labels\[.*is 6"),
        (lambda: linear_probe((X, Y), (X[:0], Y[:0]), (X, Y)), "validation: there are none"),
        (lambda: knn_votes(X, Y, X, k=241), "k: must be between 1 and the 240 training examples"),
        (lambda: knn_votes(X, Y, X[:0]), "test: there are none"),
        (lambda: few_shot_right((X, GAP), (X, Y)), "1 of 6 classes have no example"),
        (lambda: few_shot_right((X, Y), (X, Y), shots=(0,)), "shots: give at least one number"),
        (lambda: few_shot_right((X, Y), (X, Y), seeds=(-1,)), "seeds: give at least one number"),
    ],
)
def test_bad_input_is_named(call, message):
    with pytest.raises(UserError, match=message):
        call()
