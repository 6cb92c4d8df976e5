"""Recall and median rank of retrieval, and what a random ranking would reach."""

from __future__ import annotations

import numpy as np
from jaxtyping import Int


def recall_at_k(ranks: Int[np.ndarray, " queries"], k: int) -> float:
    """The share of queries, in [0, 1], that find a positive among the first `k` candidates.

    Args:
      ranks: of the best positive of each query, from 1, as `best_positive_ranks` gives them.
      k: how many candidates are looked at.

    Raises:
      ValueError: if there are no queries.
    """
    _expect_queries(ranks)
    return float(np.mean(ranks <= k))


def median_rank(ranks: Int[np.ndarray, " queries"]) -> float:
    """The median rank of the best positive, from 1; halves occur for an even number of queries.

    Raises:
      ValueError: if there are no queries.
    """
    _expect_queries(ranks)
    return float(np.median(ranks))


def chance_recall_at_k(positives: Int[np.ndarray, " queries"], candidates: int, k: int) -> float:
    """The expected recall@k, in [0, 1], when every query ranks the candidates at random.

    A query with p positives among n candidates misses with the hypergeometric probability of
    drawing none of them in k draws without replacement,
    `C(n - p, k) / C(n, k) = prod_{i < k} (n - p - i) / (n - i)`.

    Args:
      positives: how many candidates are right for each query.
      candidates: how many there are.
      k: how many of them are looked at.

    Raises:
      ValueError: if there are no queries.
    """
    _expect_queries(positives)
    draws = np.arange(min(k, candidates))
    misses = (candidates - positives[:, None] - draws) / (candidates - draws)
    return float(np.mean(1 - np.prod(misses, axis=1)))


def _expect_queries(values: Int[np.ndarray, " queries"]) -> None:
    if not len(values):
        raise ValueError("recall and rank of no queries are undefined")
