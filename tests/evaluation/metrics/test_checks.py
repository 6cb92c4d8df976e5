"""Input of a wrong kind is told and not counted: numbers for flags, one text for many."""

import jaxtyping
import numpy as np
import pytest

from vljax.config import UserError
from vljax.evaluation.metrics import (
    classification,
    compositional,
    grounding,
    hallucination,
    probes,
    ranking,
    uncertainty,
    vqa,
)

SCORES, ONES = np.array([0.1, 0.2, 0.3]), np.array([0, 1, 1])
GRID, FLAGS = np.ones((2, 3)), np.ones((2, 2), bool)
X, Y = np.array([[-2.0], [-1.0], [1.0], [2.0]]), np.array([0, 0, 1, 1])
WIDE = np.ones((2, 3)), np.array([0, 1])
MASK = np.array([[255, 0]], np.uint8)
BOX = np.array([[0, 0, 2, 2]])
SAMPLED = uncertainty.Sampled(np.array([1.0, 2.0]))
MEDIAN = uncertainty.Sampled(np.array([1.0, 2.0]), statistic="median")


@pytest.fixture(autouse=True)
def as_users_run_it():
    """Without the run-time type checks of the tests, which users do not have."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: classification.auroc(SCORES, ONES), "positives: has int64 values; give booleans"),
        (lambda: classification.average_precision(SCORES, ONES), "positives: has int64 values"),
        (lambda: ranking.best_positive_ranks(GRID, ONES), "positives: has int64 values"),
        (lambda: classification.perplexity(-GRID, GRID), "mask: has float64 values"),
        (lambda: grounding.mask_areas([MASK], [MASK]), "predicted[0]: has uint8 values"),
        (
            lambda: classification.mean_average_precision(GRID, FLAGS),
            "labels: has the shape (2, 2); it must be (2, 3)",
        ),
        (
            lambda: classification.perplexity(-GRID, FLAGS),
            "mask: has the shape (2, 2); it must be (2, 3)",
        ),
        (lambda: grounding.box_iou(GRID, GRID), "predicted: has the shape (2, 3); it must be"),
        (
            lambda: grounding.pointing_hits(np.ones((1, 2)), [np.ones(4)]),
            "boxes[0]: has the shape (4,); it must be (any, 4)",
        ),
        (lambda: compositional.winoground(GRID), "scores: has the shape (2, 3); it must be (any"),
        (
            lambda: probes.linear_probe((X, Y), (X, Y), WIDE),
            "test: has the shape (2, 3); it must be (any, 1)",
        ),
        (lambda: probes.knn_votes(X, Y, WIDE[0], k=1), "test: has the shape (2, 3)"),
        (lambda: probes.few_shot_right((X, Y), WIDE), "test: has the shape (2, 3)"),
        (
            lambda: ranking.positive_ranks(X, GRID, Y, np.array([0, 1])),
            "queries have 1 dimensions and candidates 3",
        ),
        (
            lambda: ranking.positive_ranks(X, X, Y, Y[:2]),
            "candidates: 4 embeddings and 2 groups differ",
        ),
        (lambda: vqa.vqa_accuracy("yes", "yes"), "people: is one text, 'yes'"),
        (lambda: vqa.anls("yes", "yes"), "references: is one text, 'yes'"),
        (lambda: vqa.exact_match("yes", "yes please"), "references: is one text, 'yes please'"),
        (lambda: vqa.relaxed_accuracy("5", "15"), "references: is one text, '15'"),
        (lambda: hallucination.chair(["cat"], [{"cat"}]), "mentions[0]: is one text, 'cat'"),
        (lambda: hallucination.mentioned_objects("a cat", {}), "words: is one text, 'a cat'"),
        (lambda: classification.f1_score(-Y, -Y), "predicted[2] is -1; with 1 classes"),
        (lambda: classification.f1_score(Y, Y, average="mico"), "average: unknown value 'mico'"),
        (lambda: grounding.box_iou(BOX, BOX, overlap="one"), "overlap: unknown value 'one'"),
        (lambda: probes.knn_votes(X, Y, X, k=1, weights="dinos"), "weights: unknown value"),
        (lambda: probes.knn_votes(X, Y, X, k=1, temperature=0.0), "temperature: must be above 0"),
        (
            lambda: ranking.positive_ranks(X, X, Y, Y, similarity="cos"),
            "similarity: unknown value 'cos'",
        ),
        (lambda: classification.expected_calibration_error(SCORES, ONES, bins=0), "bins: must be"),
        (lambda: uncertainty.difference(SAMPLED, MEDIAN), "the first is a mean and the second a"),
    ],
)
def test_input_of_a_wrong_kind_is_told(call, message):
    with pytest.raises(UserError) as error:
        call()
    assert str(error.value).startswith(message)
    assert len(error.value.lines) == 1


def test_votes_at_a_low_temperature_are_finite():
    """exp(1 / 0.01) is infinite in float32; the nearest neighbours must still decide."""
    train = np.array([[1.0, 0.0], [1.0, 0.2], [0.0, 1.0]])
    votes = probes.knn_votes(train, np.array([0, 1, 1]), train[:1], k=2, temperature=0.01)
    assert np.isfinite(votes).all()
    assert votes[0, 1] / votes[0, 0] == pytest.approx(np.exp((1.04**-0.5 - 1) / 0.01), rel=1e-4)
