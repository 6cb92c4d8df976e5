"""Recall and median rank by hand, chance against enumeration and simulation."""

from itertools import combinations

import numpy as np
import pytest

from vljax.config import UserError
from vljax.evaluation.metrics.ranking import (
    best_positive_ranks,
    chance_recall_at_k,
    mean_rank,
    median_rank,
    recall_at_k,
)


def test_recall_worked_by_hand():
    ranks = np.array([1, 2, 5, 6, 11])
    assert [recall_at_k(ranks, k) for k in (1, 5, 10, 11)] == [0.2, 0.6, 0.8, 1.0]


def test_median_rank_worked_by_hand():
    assert median_rank(np.array([9, 1, 4])) == 4.0
    assert median_rank(np.array([9, 1, 4, 5])) == 4.5


@pytest.mark.parametrize("k", [1, 2, 3, 6, 9])
def test_chance_counts_all_ways_to_draw(k):
    """The fraction of all sets of k among 6 candidates that hold one of the p positives."""
    for positives in (1, 2, 5, 6):
        draws = list(combinations(range(6), min(k, 6)))
        share = sum(min(draw) < positives for draw in draws) / len(draws)
        assert chance_recall_at_k(np.array([positives]), 6, k) == pytest.approx(share, abs=1e-15)


def test_chance_is_what_random_rankings_reach():
    rng = np.random.default_rng(0)
    groups = rng.integers(0, 12, 50)
    positives = groups[:, None] == groups[None, :]
    hits = [
        recall_at_k(best_positive_ranks(rng.random((50, 50)), positives), 5) for _ in range(400)
    ]
    chance = chance_recall_at_k(positives.sum(axis=1), 50, 5)
    # 20,000 queries: a standard error below 0.0036; constant 5 / 50 would be 0.26 away.
    assert np.mean(hits) == pytest.approx(chance, abs=0.015)
    assert chance > 0.3


@pytest.mark.parametrize(
    "metric",
    [
        median_rank,
        mean_rank,
        lambda ranks: recall_at_k(ranks, 1),
        lambda p: chance_recall_at_k(p, 3, 1),
    ],
)
def test_no_queries_are_an_error(metric):
    with pytest.raises(UserError, match="there are none"):
        metric(np.zeros(0, np.int64))
