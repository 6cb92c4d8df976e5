"""Ranks of the right answers, and the retrieval metrics that are computed from them."""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Float, Int

from vljax.models.numerics import Similarity, unit


def best_positive_ranks(
    similarity: Float[np.ndarray, "queries candidates"],
    positives: Bool[np.ndarray, "queries candidates"],
    tolerance: Float[np.ndarray, " queries"] | float = 0.0,
) -> Int[np.ndarray, " queries"]:
    """The rank, from 1, of the best positive candidate of each query.

    Ties count against the model: a wrong candidate that is as similar as the best positive ranks
    before it. So a model that gives every input the same embedding gets the worst ranks, whatever
    the order of the candidates. NaN is the worst similarity for a positive and the best one for
    any other candidate.

    >>> similarity = np.array([[0.9, 0.1, 0.5], [0.3, 0.3, 0.2]])
    >>> positives = np.array([[False, False, True], [True, False, False]])
    >>> best_positive_ranks(similarity, positives).tolist()
    [2, 2]

    Args:
      similarity: larger is nearer.
      positives: which candidates are right answers.
      tolerance: two similarities that differ by at most this are a tie.

    Raises:
      ValueError: if a query has no positive.
    """
    lacking = np.flatnonzero(~positives.any(axis=1))
    if lacking.size:
        raise ValueError(f"{lacking.size} queries have no positive, the first is {lacking[0]}")
    best = np.fmax.reduce(np.where(positives, similarity, -np.inf), axis=1, initial=-np.inf)
    # Not `>=`: a comparison with NaN is false and must not count as "behind".
    behind = similarity < (best - tolerance)[:, None]
    return 1 + np.count_nonzero(~positives & ~behind, axis=1)


def embedding_ranks(
    queries: Float[np.ndarray, "queries embed"],
    candidates: Float[np.ndarray, "candidates embed"],
    query_groups: Int[np.ndarray, " queries"],
    candidate_groups: Int[np.ndarray, " candidates"],
    *,
    similarity: Similarity = "dot",
    chunk_elements: int = 1 << 22,
) -> Int[np.ndarray, " queries"]:
    """The rank, from 1, of the best candidate that has the group of the query.

    Similarities are computed in float64. Those that differ by no more than the rounding error of
    float64 are a tie, so equal embeddings tie in whatever order the matrix product sums. Ties count
    against the model, as in `best_positive_ranks`.

    >>> images = np.array([[1.0, 0.0], [0.6, 0.8]])
    >>> texts = np.array([[0.0, 1.0], [1.0, 0.1], [0.5, 0.9]])
    >>> embedding_ranks(images, texts, np.array([0, 1]), np.array([0, 0, 1])).tolist()
    [1, 1]

    Args:
      queries: embeddings to search with.
      candidates: embeddings to search among.
      query_groups: the group of each query.
      candidate_groups: the group of each candidate; the positives of a query have its group.
      similarity: cosine of the angle, dot product, or nearness in Euclidean distance.
      chunk_elements: how many similarities are held at a time (at least those of one query).

    Raises:
      ValueError: if a query has no candidate of its group.
    """
    queries, candidates = _as_dot_products(queries, candidates, similarity)
    tolerance = _rounding_error(queries, candidates)
    rows = max(1, chunk_elements // max(1, len(candidates)))
    ranks = [
        best_positive_ranks(
            queries[start : start + rows] @ candidates.T,
            query_groups[start : start + rows, None] == candidate_groups[None, :],
            tolerance[start : start + rows],
        )
        for start in range(0, len(queries), rows)
    ]
    return np.concatenate([np.zeros(0, np.int64), *ranks])


def similarities(
    queries: Float[np.ndarray, "queries embed"],
    candidates: Float[np.ndarray, "candidates embed"],
    similarity: Similarity,
) -> Float[np.ndarray, "queries candidates"]:
    """The float64 scores that `embedding_ranks` ranks by, for all pairs at once; larger is nearer.

    >>> similarities(np.array([[3.0, 4.0]]), np.array([[6.0, 8.0], [0.0, -2.0]]), "dot").tolist()
    [[50.0, -8.0]]
    """
    queries, candidates = _as_dot_products(queries, candidates, similarity)
    return queries @ candidates.T


def _as_dot_products(
    queries: Float[np.ndarray, "queries embed"],
    candidates: Float[np.ndarray, "candidates embed"],
    similarity: Similarity,
) -> tuple[Float[np.ndarray, "queries _"], Float[np.ndarray, "candidates _"]]:
    """Float64 vectors whose dot products order the candidates of each query.

    For the Euclidean distance, -|q - c|^2 / 2 = q.c - |c|^2 / 2 - |q|^2 / 2. The last term is left
    out, since it is the same for all candidates of a query.
    """
    queries, candidates = queries.astype(np.float64), candidates.astype(np.float64)
    if similarity == "cosine":
        return unit(queries), unit(candidates)
    if similarity == "dot":
        return queries, candidates
    half_squares = np.einsum("ce,ce->c", candidates, candidates) / 2
    ones = np.ones((len(queries), 1))
    return np.hstack([queries, ones]), np.hstack([candidates, -half_squares[:, None]])


def _rounding_error(
    queries: Float[np.ndarray, "queries embed"], candidates: Float[np.ndarray, "candidates embed"]
) -> Float[np.ndarray, " queries"]:
    """How far apart two float64 dot products of a query may be although they are equal.

    A sum of n products is off by at most n u |q||c|, where u is the unit round-off (Higham 2002,
    eq. 3.5). Two of them differ by at most twice that. The result is twice that again, since the
    entries themselves are rounded.
    """
    norms = np.linalg.norm(candidates, axis=1)
    largest = np.max(norms, initial=0.0, where=np.isfinite(norms))
    round_off = np.finfo(np.float64).eps / 2
    return 4 * queries.shape[1] * round_off * np.linalg.norm(queries, axis=1) * largest


def recall_at_k(ranks: Int[np.ndarray, " queries"], k: int) -> float:
    """The fraction of queries, in [0, 1], with a positive among the first `k` candidates.

    >>> recall_at_k(np.array([1, 2, 5, 11]), 5)
    0.75

    Args:
      ranks: of the best positive of each query, from 1, as `best_positive_ranks` gives them.
      k: how many candidates count.

    Raises:
      ValueError: if there are no queries.
    """
    _expect_queries(ranks)
    return float(np.mean(ranks <= k))


def median_rank(ranks: Int[np.ndarray, " queries"]) -> float:
    """The median rank of the best positive, from 1; halves occur for an even number of queries.

    >>> median_rank(np.array([9, 1, 4, 5]))
    4.5

    Raises:
      ValueError: if there are no queries.
    """
    _expect_queries(ranks)
    return float(np.median(ranks))


def chance_recall_at_k(positives: Int[np.ndarray, " queries"], candidates: int, k: int) -> float:
    """The expected recall@k, in [0, 1], if every query ranks the candidates at random.

    A query with p positives among n candidates misses with the hypergeometric probability of
    drawing none of them in k draws without replacement,
    `C(n - p, k) / C(n, k) = prod_{i < k} (n - p - i) / (n - i)`.

    >>> chance_recall_at_k(np.array([1, 3]), candidates=4, k=1)
    0.5

    Args:
      positives: the number of right candidates of each query.
      candidates: the number of candidates.
      k: how many of them count.

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
