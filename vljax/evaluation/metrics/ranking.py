"""At which rank the right answer stands: what retrieval and classification metrics are made of."""

from __future__ import annotations

from typing import Literal

import numpy as np
from jaxtyping import Bool, Float, Int

Similarity = Literal["cosine", "dot", "euclidean"]


def best_positive_ranks(
    similarity: Float[np.ndarray, "queries candidates"],
    positives: Bool[np.ndarray, "queries candidates"],
    tolerance: Float[np.ndarray, " queries"] | float = 0.0,
) -> Int[np.ndarray, " queries"]:
    """The rank, from 1, at which each query finds the first of its positives.

    Ties count against the model: a candidate that is no positive and as similar as the best
    positive stands before it. A model that gives every input the same embedding thus gets the
    worst ranks, whatever the order of the candidates. NaN is the worst similarity for a positive
    and the best for any other candidate.

    Args:
      similarity: larger is nearer.
      positives: which candidates are right answers.
      tolerance: similarities at most this far apart are a tie.

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
    """`best_positive_ranks` of embeddings, where candidates of a query's group are its positives.

    Similarities are computed in float64; those that differ by no more than its rounding error are
    a tie, so equal embeddings tie whatever order the matrix product sums in.

    Args:
      queries: embeddings to search with.
      candidates: embeddings to search among.
      query_groups: a group id for each query.
      candidate_groups: a group id for each candidate.
      similarity: the cosine of the angle, the dot product, or nearness in Euclidean distance.
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
    """What `embedding_ranks` ranks by, in float64, larger is nearer; all of it at once."""
    queries, candidates = _as_dot_products(queries, candidates, similarity)
    return queries @ candidates.T


def _as_dot_products(
    queries: Float[np.ndarray, "queries embed"],
    candidates: Float[np.ndarray, "candidates embed"],
    similarity: Similarity,
) -> tuple[Float[np.ndarray, "queries _"], Float[np.ndarray, "candidates _"]]:
    """Vectors in float64 whose dot products order the candidates of each query.

    For the Euclidean distance that is `-|q - c|^2 / 2 = q.c - |c|^2 / 2 - |q|^2 / 2` without the
    last term, which is the same for every candidate.
    """
    queries, candidates = queries.astype(np.float64), candidates.astype(np.float64)
    if similarity == "cosine":
        return _unit(queries), _unit(candidates)
    if similarity == "dot":
        return queries, candidates
    half_squares = np.einsum("ce,ce->c", candidates, candidates) / 2
    ones = np.ones((len(queries), 1))
    return np.hstack([queries, ones]), np.hstack([candidates, -half_squares[:, None]])


def _unit(vectors: Float[np.ndarray, "vectors embed"]) -> Float[np.ndarray, "vectors embed"]:
    """Vectors of length 1; zero stays zero, and is as near to every vector as to any other."""
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.divide(vectors, norms, out=vectors.copy(), where=norms != 0)


def _rounding_error(
    queries: Float[np.ndarray, "queries embed"], candidates: Float[np.ndarray, "candidates embed"]
) -> Float[np.ndarray, " queries"]:
    """How far two float64 dot products of a query may be apart though they are equal.

    A sum of n products is off by at most n u |q||c|, u the unit round-off (Higham 2002, eq. 3.5),
    and there are two of them; twice that leaves room for entries that are rounded themselves.
    """
    norms = np.linalg.norm(candidates, axis=1)
    largest = np.max(norms, initial=0.0, where=np.isfinite(norms))
    unit = np.finfo(np.float64).eps / 2
    return 4 * queries.shape[1] * unit * np.linalg.norm(queries, axis=1) * largest


# --- Recall and median rank of retrieval, and what a random ranking would reach -------------------


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
