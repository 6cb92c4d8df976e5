"""Ranks of the right answers, and the retrieval metrics that are computed from them."""

from __future__ import annotations

import math
from typing import NamedTuple, get_args

import numpy as np
from jaxtyping import Bool, Float, Int, Num

from vljax.config import UserError
from vljax.evaluation.metrics.checks import check_choice, check_finite, check_flags, check_some
from vljax.models.numerics import Similarity, unit

_FEW_POSITIVES = 8
"""Up to so many positives of a query, a pass over the similarities for each is faster than a search
among their similarities."""


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
      UserError: if a query has no positive.
    """
    check_flags(positives, "positives")
    _expect_positives(np.count_nonzero(positives, axis=1))
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
    chunk_elements: int = 1 << 20,
) -> Int[np.ndarray, " queries"]:
    """The rank, from 1, of the best candidate that has the group of the query.

    Similarities are computed in float64. Those that differ by no more than the rounding error of
    float64 are a tie, so equal embeddings tie in whatever order the matrix product sums. Ties and
    NaN count against the model, as in `best_positive_ranks`.

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
      chunk_elements: how many similarities are held at a time.

    Raises:
      UserError: if a query has no candidate of its group.
    """
    args = queries, candidates, query_groups, candidate_groups
    return _ranks(*args, similarity, chunk_elements).best


class PositiveRanks(NamedTuple):
    """The ranks of all positives; an entry for each pair of a query and one of its positives."""

    query: Int[np.ndarray, " positives"]
    """The index of the query; ascending."""
    number: Int[np.ndarray, " positives"]
    """Which positive of its query it is, from 1, the best one first."""
    rank: Int[np.ndarray, " positives"]
    """Its rank among all candidates, from 1."""

    @property
    def best(self) -> Int[np.ndarray, " queries"]:
        """The rank of the best positive of each query."""
        return self.rank[self.number == 1]


def positive_ranks(
    queries: Float[np.ndarray, "queries embed"],
    candidates: Float[np.ndarray, "candidates embed"],
    query_groups: Int[np.ndarray, " queries"],
    candidate_groups: Int[np.ndarray, " candidates"],
    *,
    similarity: Similarity = "cosine",
    chunk_elements: int = 1 << 20,
) -> PositiveRanks:
    """The ranks of all positives of each query, for recall as a share and average precision.

    Similarities and ties are those of `embedding_ranks`: computed in float64, in blocks, and a
    wrong candidate that ties with a positive ranks before it. Memory beside the inputs and the
    result is that of a few blocks of `chunk_elements` float64 numbers.

    >>> images = np.array([[1.0, 0.0], [0.0, 1.0]])
    >>> texts = np.array([[1.0, 0.1], [0.1, 1.0], [0.5, 0.9]])
    >>> positive_ranks(images, texts, np.array([0, 1]), np.array([0, 1, 0])).rank.tolist()
    [1, 2, 1]

    Args:
      queries: embeddings to search with.
      candidates: embeddings to search among.
      query_groups: the group of each query.
      candidate_groups: the group of each candidate; the positives of a query have its group.
      similarity: cosine of the angle, dot product, or nearness in Euclidean distance.
      chunk_elements: how many similarities are held at a time.

    Raises:
      UserError: if an embedding is NaN or infinite, there are none, or a query has no candidate of
        its group.
    """
    check_finite(queries, "queries")
    check_finite(candidates, "candidates")
    args = queries, candidates, query_groups, candidate_groups
    return _ranks(*args, similarity, chunk_elements)


def _ranks(
    queries: Float[np.ndarray, "queries embed"],
    candidates: Float[np.ndarray, "candidates embed"],
    query_groups: Int[np.ndarray, " queries"],
    candidate_groups: Int[np.ndarray, " candidates"],
    similarity: Similarity,
    chunk_elements: int,
) -> PositiveRanks:
    """Counts for each positive the wrong candidates that are as near as it or nearer.

    Sorted by these counts, the i-th positive of a query has i - 1 positives and that many wrong
    candidates before it.
    """
    check_choice(similarity, "similarity", *get_args(Similarity))
    for vectors, groups, name in (
        (queries, query_groups, "queries"),
        (candidates, candidate_groups, "candidates"),
    ):
        if len(vectors) != len(groups):
            raise UserError(f"{name}: {len(vectors)} embeddings and {len(groups)} groups differ")
    if queries.shape[1] != candidates.shape[1]:
        raise UserError(
            f"queries have {queries.shape[1]} dimensions and candidates {candidates.shape[1]}; "
            "give embeddings of the same model"
        )
    query, candidate = _positive_pairs(query_groups, candidate_groups)
    ahead = np.zeros(len(query), np.int64)
    first = np.searchsorted(query, np.arange(len(queries) + 1))  # of each query's pairs
    columns = max(1, min(len(candidates), math.isqrt(chunk_elements)))
    rows = max(1, chunk_elements // columns)
    largest = _largest_norm(candidates, similarity, rows)
    for top in range(0, len(queries), rows):
        bottom = min(top + rows, len(queries))
        pairs = slice(first[top], first[bottom])
        block = queries[top:bottom]
        own, values = query[pairs] - top, np.empty(first[bottom] - first[top])
        for start in range(0, len(values), rows):
            part = slice(start, start + rows)
            of_pairs = candidates[candidate[pairs][part]]
            left, right = _as_dot_products(block[own[part]], of_pairs, similarity)
            values[part] = np.einsum("pe,pe->p", left, right)
        left, _ = _as_dot_products(block, candidates[:0], similarity)
        # Positives by column: the j-th of each query, where it has as many.
        place = np.arange(len(values)) - (first[top:bottom] - first[top])[own]
        levels = np.full((bottom - top, place.max(initial=-1) + 1), np.inf)
        levels[own, place] = values - _rounding_error(left, largest)[own]
        counts = np.zeros(levels.shape, np.int64)
        for start in range(0, len(candidates), columns):
            end = min(start + columns, len(candidates))
            _, right = _as_dot_products(block[:0], candidates[start:end], similarity)
            near = left @ right.T
            inside = (candidate[pairs] >= start) & (candidate[pairs] < end)
            near[own[inside], candidate[pairs][inside] - start] = -np.inf  # not a wrong one
            counts += _not_behind(near, levels)
        wrong = len(candidates) - np.diff(first[top : bottom + 1])
        found = np.where(np.isnan(values), wrong[own], counts[own, place])
        ahead[pairs] = np.minimum(found, wrong[own])
    order = np.lexsort((ahead, query))
    number = np.arange(len(query)) - first[query] + 1
    return PositiveRanks(query, number, ahead[order] + number)


def _not_behind(
    near: Float[np.ndarray, "rows candidates"], levels: Float[np.ndarray, "rows positives"]
) -> Int[np.ndarray, "rows positives"]:
    """How many values of a row are not below each level of the row; NaN is above all."""
    counts = np.zeros(levels.shape, np.int64)
    if levels.shape[1] <= _FEW_POSITIVES:
        for j, level in enumerate(levels.T):
            # Not `>=`: a comparison with NaN is false and must not count as "behind".
            counts[:, j] = near.shape[1] - np.count_nonzero(near < level[:, None], axis=1)
        return counts
    order = np.argsort(levels, axis=1)
    for row, (values, own) in enumerate(zip(near, order, strict=True)):
        passed = np.searchsorted(levels[row, own], values, side="right")
        tally = np.bincount(passed, minlength=len(own) + 1)
        counts[row, own] = np.cumsum(tally[:0:-1])[::-1]
    return counts


def _positive_pairs(
    query_groups: Int[np.ndarray, " queries"], candidate_groups: Int[np.ndarray, " candidates"]
) -> tuple[Int[np.ndarray, " pairs"], Int[np.ndarray, " pairs"]]:
    """Indices of queries, ascending, and of the candidates of the same group."""
    order = np.argsort(candidate_groups, kind="stable")
    groups = candidate_groups[order]
    start = np.searchsorted(groups, query_groups, side="left")
    counts = np.searchsorted(groups, query_groups, side="right") - start
    _expect_positives(counts)
    query = np.repeat(np.arange(len(query_groups)), counts)
    within = np.arange(len(query)) - np.repeat(np.cumsum(counts) - counts, counts)
    return query, order[start[query] + within]


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
    queries: Float[np.ndarray, "queries embed"], largest: float
) -> Float[np.ndarray, " queries"]:
    """How far apart two float64 dot products of a query may be although they are equal.

    `largest` is the largest norm of a candidate. A sum of n products is off by at most n u |q||c|,
    where u is the unit round-off (Higham 2002, eq. 3.5). Two of them differ by at most twice that.
    The result is twice that again, since the entries themselves are rounded.
    """
    round_off = np.finfo(np.float64).eps / 2
    return 4 * queries.shape[1] * round_off * np.linalg.norm(queries, axis=1) * largest


def _largest_norm(
    candidates: Float[np.ndarray, "candidates embed"], similarity: Similarity, rows: int
) -> float:
    """The largest finite norm of the vectors that stand for candidates in dot products."""
    largest = 0.0
    for start in range(0, len(candidates), rows):
        _, part = _as_dot_products(candidates[:0], candidates[start : start + rows], similarity)
        norms = np.linalg.norm(part, axis=1)
        largest = max(largest, np.max(norms, initial=0.0, where=np.isfinite(norms)))
    return float(largest)


def recall_at_k(ranks: Int[np.ndarray, " queries"], k: int) -> float:
    """The fraction of queries, in [0, 1], with a positive among the first `k` candidates.

    >>> recall_at_k(np.array([1, 2, 5, 11]), 5)
    0.75

    Args:
      ranks: of the best positive of each query, from 1, as `best_positive_ranks` gives them.
      k: how many candidates count.

    Raises:
      UserError: if there are no queries.
    """
    check_some(ranks, "ranks")
    return float(np.mean(ranks <= k))


def recall_share_at_k(ranks: PositiveRanks, k: int) -> float:
    """The share of its positives that a query finds among the first `k`, in [0, 1]; the mean.

    What `recall_at_k` of CLIP_benchmark computes for each query. Published retrieval figures are
    hits instead: its evaluator, as the papers, counts a query with any positive as 1
    (`recall_at_k` of `ranks.best`).

    >>> ranks = PositiveRanks(np.array([0, 0, 1]), np.array([1, 2, 1]), np.array([1, 7, 3]))
    >>> recall_share_at_k(ranks, 5), recall_at_k(ranks.best, 5)
    (0.75, 1.0)

    Args:
      ranks: from `positive_ranks`.
      k: how many candidates count.

    Raises:
      UserError: if there are no queries.
    """
    return float(np.mean(_query_means(ranks, ranks.rank <= k)))


def retrieval_map(ranks: PositiveRanks) -> float:
    """Mean over the queries of the average precision, in [0, 1]: of i / rank of the i-th positive.

    As `average_precision_score` of scikit-learn for each query, with ties against the model.

    >>> retrieval_map(PositiveRanks(np.array([0, 0]), np.array([1, 2]), np.array([1, 4])))
    0.75

    Raises:
      UserError: if there are no queries.
    """
    return float(np.mean(_query_means(ranks, ranks.number / ranks.rank)))


def _query_means(
    ranks: PositiveRanks, values: Num[np.ndarray, " positives"] | Bool[np.ndarray, " positives"]
) -> Float[np.ndarray, " queries"]:
    check_some(ranks.query, "ranks")
    return np.bincount(ranks.query, weights=values) / np.bincount(ranks.query)


def mean_rank(ranks: Int[np.ndarray, " queries"]) -> float:
    """The mean rank of the best positive, from 1.

    >>> mean_rank(np.array([9, 1, 4, 6]))
    5.0

    Raises:
      UserError: if there are no queries.
    """
    check_some(ranks, "ranks")
    return float(np.mean(ranks))


def median_rank(ranks: Int[np.ndarray, " queries"]) -> float:
    """The median rank of the best positive, from 1; halves occur for an even number of queries.

    >>> median_rank(np.array([9, 1, 4, 5]))
    4.5

    Raises:
      UserError: if there are no queries.
    """
    check_some(ranks, "ranks")
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
      UserError: if there are no queries.
    """
    check_some(positives, "positives")
    draws = np.arange(min(k, candidates))
    misses = (candidates - positives[:, None] - draws) / (candidates - draws)
    return float(np.mean(1 - np.prod(misses, axis=1)))


def _expect_positives(counts: Int[np.ndarray, " queries"]) -> None:
    lacking = np.flatnonzero(counts == 0)
    if lacking.size:
        raise UserError(f"{lacking.size} queries have no positive, the first is {lacking[0]}")
