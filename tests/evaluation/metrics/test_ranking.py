"""Ranks against loops over Python numbers, ties and NaN."""

from fractions import Fraction

import hypothesis.extra.numpy as arrays
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vljax.config import UserError
from vljax.evaluation.metrics import ranking
from vljax.evaluation.metrics.ranking import (
    best_positive_ranks,
    embedding_ranks,
    positive_ranks,
    similarities,
)

BIG = 2048


def brute_force(queries, candidates, query_groups, candidate_groups, near):
    """The definition, one pair at a time, in exact arithmetic."""
    ranks = []
    for query, group in zip(queries, query_groups, strict=True):
        values = [near(query, candidate) for candidate in candidates]
        right = [other == group for other in candidate_groups]
        best = max(value for value, hit in zip(values, right, strict=True) if hit)
        ahead = [value >= best and not hit for value, hit in zip(values, right, strict=True)]
        ranks.append(1 + sum(ahead))
    return ranks


def exact_dot(a, b):
    return sum(Fraction(float(x)) * Fraction(float(y)) for x, y in zip(a, b, strict=True))


def exact_cosine(a, b):
    """The cosine squared with its sign, times the squared length of `a` (the same for all `b`)."""
    dot, square = exact_dot(a, b), exact_dot(b, b)
    return dot * abs(dot) / square if square else Fraction(0)


def exact_distance(a, b):
    return -sum((Fraction(float(x)) - Fraction(float(y))) ** 2 for x, y in zip(a, b, strict=True))


@st.composite
def problems(draw):
    """Small integers, so that ties are common; every query group has a candidate."""
    embed = draw(st.integers(1, 4))
    candidates, queries = draw(st.integers(1, 12)), draw(st.integers(1, 8))
    vectors = [
        draw(arrays.arrays(np.float32, (rows, embed), elements=st.integers(-2, 2)))
        for rows in (queries, candidates)
    ]
    groups = draw(arrays.arrays(np.int64, candidates, elements=st.integers(0, 3)))
    asked = np.array(draw(st.lists(st.sampled_from(groups), min_size=queries, max_size=queries)))
    return vectors[0], vectors[1], asked, groups


def test_ranks_worked_by_hand():
    similarity = np.array(
        [
            [0.9, 0.1, 0.5, 0.3],  # the positive (0.5) comes second
            [0.2, 0.8, 0.7, 0.6],  # of two positives (0.7, 0.6) the better one comes second
            [0.1, 0.2, 0.3, 0.4],  # found first
            [0.4, 0.4, 0.1, 0.0],  # a tie with one other candidate: second
        ]
    )
    positives = np.array([[0, 0, 1, 0], [0, 0, 1, 1], [0, 0, 0, 1], [1, 0, 0, 0]], bool)
    assert best_positive_ranks(similarity, positives).tolist() == [2, 2, 1, 2]


def test_ties_among_positives_do_not_lower_the_rank():
    assert best_positive_ranks(np.ones((1, 3)), np.array([[True, True, True]])).tolist() == [1]


def test_values_within_the_tolerance_are_ties():
    similarity, positives = np.array([[1.0, 0.9]]), np.array([[True, False]])
    assert best_positive_ranks(similarity, positives, 0.05).tolist() == [1]
    assert best_positive_ranks(similarity, positives, 0.11).tolist() == [2]


@pytest.mark.parametrize(
    ("similarity", "rank"),
    [
        ([np.nan, 0.0, 0.0], 3),
        ([0.5, np.nan, 0.0], 2),
        ([np.nan] * 3, 3),
        ([np.inf, np.inf, 0.0], 2),
        ([-np.inf, -np.inf, 0.0], 3),
        ([0.5, 0.9, 0.0, np.nan], 2),  # nor does it hide another positive
    ],
)
def test_nan_never_improves_a_rank(similarity, rank):
    positives = np.array([[True, False, False, True][: len(similarity)]])
    assert best_positive_ranks(np.array([similarity]), positives).tolist() == [rank]


def test_a_query_without_a_positive_is_named():
    with pytest.raises(UserError, match="2 queries have no positive, the first is 1"):
        best_positive_ranks(np.zeros((3, 1)), np.array([[True], [False], [False]]))


@given(problems(), st.sampled_from([1, 5, 1 << 22]))
def test_dot_product_ranks_equal_exact_arithmetic(problem, chunk):
    ranks = embedding_ranks(*problem, chunk_elements=chunk)
    assert ranks.tolist() == brute_force(*problem, exact_dot)


@given(problems(), st.sampled_from([1, 5, 1 << 22]))
def test_euclidean_ranks_equal_exact_arithmetic(problem, chunk):
    ranks = embedding_ranks(*problem, similarity="euclidean", chunk_elements=chunk)
    assert ranks.tolist() == brute_force(*problem, exact_distance)


@given(problems(), st.sampled_from([1, 5, 1 << 22]), st.randoms(use_true_random=False))
def test_cosine_ranks_equal_exact_arithmetic_at_any_scale(problem, chunk, random):
    queries, candidates, *groups = problem
    scaled = [
        vectors * np.array([[random.randint(1, 999)] for _ in vectors], np.float32)
        for vectors in (queries, candidates)
    ]
    ranks = embedding_ranks(*scaled, *groups, similarity="cosine", chunk_elements=chunk)
    assert ranks.tolist() == brute_force(*problem, exact_cosine)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(
    ("query", "candidates", "rank"),
    [
        ([0, 0], [[1, 0], [0, 5], [-1, 0]], 3),  # a query of length 0 is as near to all
        ([2, 0], [[0, 0], [3, 1], [-4, 1]], 2),  # a candidate of length 0 is at a right angle
        ([2, 0], [[0, 0], [0, 7], [-4, 1]], 2),
        ([0, 0], [[0, 0], [0, 0], [0, 0]], 3),
    ],
)
def test_the_cosine_with_a_vector_of_length_0_is_0(query, candidates, rank):
    args = np.array([query], np.float32), np.array(candidates, np.float32)
    ranks = embedding_ranks(*args, np.array([0]), np.arange(3), similarity="cosine")
    assert ranks.tolist() == [rank]
    assert np.isfinite(similarities(*args, "cosine")).all()


@pytest.mark.parametrize(
    ("similarity", "near"),
    [("dot", exact_dot), ("cosine", exact_cosine), ("euclidean", exact_distance)],
)
def test_real_valued_embeddings_equal_exact_arithmetic(similarity, near):
    rng = np.random.default_rng(0)
    queries, candidates = rng.normal(size=(2, 40, 9)).astype(np.float32)
    groups = rng.integers(0, 10, 40)
    expected = brute_force(queries, candidates, groups, groups, near)
    assert len(set(expected)) > 5
    ranks = embedding_ranks(queries, candidates, groups, groups, similarity=similarity)
    assert ranks.tolist() == expected


def test_similarities_differ_for_embeddings_of_different_length():
    query, candidates = np.array([[1.0, 0.0]]), np.array([[1.0, 0.0], [9.0, 0.0]])
    args = (query, candidates, np.array([0]), np.array([0, 1]))
    assert embedding_ranks(*args).tolist() == [2]  # by the dot product
    assert embedding_ranks(*args, similarity="cosine").tolist() == [2]
    assert embedding_ranks(*args, similarity="euclidean").tolist() == [1]
    # For the cosine alone, a right answer at an angle ranks behind the shorter vector.
    args = (query, np.array([[5.0, 4.0], [2.0, 0.0]]), *args[2:])
    assert embedding_ranks(*args).tolist() == [1]
    assert embedding_ranks(*args, similarity="cosine").tolist() == [2]


@pytest.mark.parametrize("similarity", ["cosine", "dot", "euclidean"])
def test_a_collapsed_model_gets_the_worst_ranks(similarity):
    """Matrix products sum in another order at their edges; equal vectors must tie all the same."""
    vector = np.random.default_rng(1).normal(size=97).astype(np.float32)
    for count in (5, 63, 203):
        same = np.tile(vector, (count, 1))
        ids = np.arange(count)
        ranks = embedding_ranks(same, same, ids, ids, similarity=similarity, chunk_elements=1500)
        assert set(ranks.tolist()) == {count}


def test_collapsed_directions_of_any_length_tie_for_the_cosine():
    rng = np.random.default_rng(1)
    vector, ids = rng.normal(size=97), np.arange(203)
    queries, candidates = (vector * rng.lognormal(0, 3, (203, 1)) for _ in range(2))
    ranks = embedding_ranks(queries, candidates, ids, ids, similarity="cosine", chunk_elements=1500)
    assert set(ranks.tolist()) == {203}


def test_nearly_equal_similarities_are_not_ties():
    """The tolerance is that of float64, far below what float32 embeddings can tell apart."""
    rng = np.random.default_rng(2)
    query = rng.normal(size=(1, 512)).astype(np.float32)
    near = query.copy()
    near[0, 0] = np.nextafter(near[0, 0], np.float32(0))
    # The length of another query does not change the tolerance of this one.
    queries = np.concatenate([query * np.float32(1e12), query])
    ranks = embedding_ranks(queries, np.concatenate([query, near]), np.zeros(2, int), np.arange(2))
    assert ranks.tolist() == [1, 1]


def test_a_nan_embedding_affects_only_its_own_rank():
    candidates = np.eye(3, dtype=np.float32)
    candidates[2] = np.nan
    ids = np.arange(3)
    ranks = embedding_ranks(np.eye(3, dtype=np.float32), candidates, ids, ids)
    assert ranks.tolist() == [2, 2, 3]


def test_similarities_of_all_pairs_are_never_held_at_once():
    import tracemalloc

    ids = np.arange(BIG)
    vectors = np.random.default_rng(3).normal(size=(BIG, 2)).astype(np.float32)
    tracemalloc.start()
    embedding_ranks(vectors, vectors, ids, ids, chunk_elements=1 << 14)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < BIG * BIG


@given(problems(), st.sampled_from([1, 5, 1 << 20]), st.sampled_from([0, 8]))
def test_the_ranks_of_all_positives_equal_exact_arithmetic(problem, chunk, few):
    """Of each query: sorted by nearness, wrong candidates before right ones that tie."""
    queries, candidates, query_groups, candidate_groups = problem
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ranking, "_FEW_POSITIVES", few)
        found = positive_ranks(*problem, similarity="dot", chunk_elements=chunk)
    for i, (query, group) in enumerate(zip(queries, query_groups, strict=True)):
        keys = [
            (-exact_dot(query, candidate), other == group)
            for candidate, other in zip(candidates, candidate_groups, strict=True)
        ]
        expected = [rank for rank, (_, hit) in enumerate(sorted(keys), start=1) if hit]
        own = found.query == i
        assert found.rank[own].tolist() == expected
        assert found.number[own].tolist() == list(range(1, len(expected) + 1))


def test_bad_embeddings_are_named():
    ids = np.arange(2)
    with pytest.raises(UserError, match=r"candidates\[1, 0\] is nan"):
        positive_ranks(np.eye(2), np.array([[0, 1], [np.nan, 0]]), ids, ids)
    with pytest.raises(UserError, match="queries: there are none"):
        positive_ranks(np.zeros((0, 2)), np.eye(2), ids[:0], ids)
    with pytest.raises(UserError, match="1 queries have no positive, the first is 1"):
        positive_ranks(np.eye(2), np.eye(2), np.array([0, 7]), ids)


def test_no_queries_give_no_ranks():
    none = np.zeros((0, 2), np.float32)
    ids = np.zeros(0, np.int64)
    assert embedding_ranks(none, np.ones((1, 2)), ids, np.zeros(1, np.int64)).shape == (0,)


def test_similarities_by_hand():
    queries, candidates = np.array([[3.0, 4.0]]), np.array([[6.0, 8.0], [0.0, -2.0], [0.0, 0.0]])
    assert similarities(queries, candidates, "dot").tolist() == [[50.0, -8.0, 0.0]]
    cosines = similarities(queries, candidates, "cosine")
    np.testing.assert_allclose(cosines, [[1.0, -0.8, 0.0]], atol=1e-15)
    assert cosines.dtype == similarities(*np.ones((2, 1, 1), np.float32), "dot").dtype == np.float64


def test_euclidean_similarities_have_the_order_of_distances():
    rng = np.random.default_rng(4)
    queries, candidates = rng.normal(size=(3, 5)), rng.normal(size=(7, 5))
    distances = np.linalg.norm(queries[:, None] - candidates, axis=-1)
    order = np.argsort(-similarities(queries, candidates, "euclidean"), axis=1)
    np.testing.assert_array_equal(order, np.argsort(distances, axis=1))
