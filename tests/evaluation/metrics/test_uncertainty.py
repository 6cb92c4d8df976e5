"""Bootstrap intervals: against loops, against theory, and errors; scipy is in tests/parity."""

import copy
import pickle

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vljax.config import UserError
from vljax.evaluation.metrics import uncertainty
from vljax.evaluation.metrics.uncertainty import Sampled, bootstrap_mean, paired_difference

VALUES = st.lists(st.tuples(st.integers(0, 3), st.integers(0, 4)), min_size=2, max_size=12)


@settings(max_examples=30)
@given(VALUES)
def test_clusters_are_drawn_whole(rows):
    """The same draws, one resample at a time, with the examples of each cluster in a list."""
    values = np.array([float(v) for v, _ in rows])
    names = [f"image {c}" for _, c in rows]
    clusters = [values[[n == name for n in names]] for name in dict.fromkeys(names)]
    if len(clusters) < 2:
        return
    rng, means = np.random.default_rng(1), []
    for _ in range(50):
        drawn = rng.integers(0, len(clusters), len(clusters))
        means.append(np.concatenate([clusters[i] for i in drawn]).mean())
    low, high = np.quantile(means, [0.1, 0.9])
    found = bootstrap_mean(values, names, level=0.8, resamples=50, seed=1)
    assert found == pytest.approx((values.mean(), low, high), abs=1e-12)


def test_blocks_do_not_change_the_draws(monkeypatch):
    values = np.random.default_rng(0).normal(size=31)
    whole = bootstrap_mean(values, resamples=100)
    monkeypatch.setattr(uncertainty, "_BLOCK_ELEMENTS", 31 * 7 + 3)
    assert bootstrap_mean(values, resamples=100) == whole


def test_the_interval_is_that_of_the_normal_distribution_for_many_examples():
    values = np.random.default_rng(0).normal(size=2000)
    found = bootstrap_mean(values, resamples=4000)
    half = 1.96 * values.std() / np.sqrt(len(values))
    assert found.high - found.mean == pytest.approx(half, rel=0.06)
    assert found.mean - found.low == pytest.approx(half, rel=0.06)


def test_copies_of_an_example_do_not_narrow_the_interval_of_clusters():
    values = np.random.default_rng(0).integers(0, 2, 40).astype(float)
    copies, images = np.repeat(values, 5), np.repeat(np.arange(40), 5)
    assert bootstrap_mean(copies, images) == pytest.approx(bootstrap_mean(values), abs=1e-12)
    naive = bootstrap_mean(copies)
    assert naive.high - naive.low < 0.6 * np.diff(bootstrap_mean(values)[1:])[0]


def test_a_paired_difference_is_narrower_than_the_models():
    """Models that differ in 1 of 10 examples: the interval excludes 0, those of each overlap."""
    hard = np.random.default_rng(0).integers(0, 2, 200)
    first = [(i, float(v)) for i, v in enumerate(hard)]
    second = [(i, 1.0 if i % 10 == 0 else v) for i, v in reversed(first)]
    found = paired_difference(first, second)
    assert found.low > 0
    alone = [bootstrap_mean(np.array([v for _, v in rows])) for rows in (first, second)]
    assert alone[0].high > alone[1].low
    assert paired_difference(second, first).mean == -found.mean


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: bootstrap_mean(np.zeros(0)), "values: there are none"),
        (lambda: bootstrap_mean(np.array([1, np.nan])), r"values\[1\] is nan"),
        (lambda: bootstrap_mean(np.ones(1)), "examples: there is one"),
        (lambda: bootstrap_mean(np.ones(2), ["a", "a"]), "clusters: there is one"),
        (lambda: bootstrap_mean(np.ones(2), ["a"]), "values has 2 entries and clusters has 1"),
        (lambda: bootstrap_mean(np.ones(2), level=95.0), "level: must be between 0 and 1"),
        (lambda: bootstrap_mean(np.ones(2), resamples=0), "resamples: must be at least 1"),
        (lambda: paired_difference([(1, 0.0)] * 2, [(1, 0.0)]), "first: id 1 is there 2 times"),
        (lambda: paired_difference([(1, 0.0)], [(1, 0.0)] * 2), "second: id 1 is there 2 times"),
        (lambda: paired_difference([(1, 0.0)], [(2, 0.0)]), "first: has no entry for 1 of 1 ids"),
    ],
)
def test_bad_input_is_named(call, message):
    with pytest.raises(UserError, match=message):
        call()


@pytest.mark.parametrize("again", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))])
def test_a_metric_can_be_copied_and_pickled(again):
    metric = Sampled(np.array([1.0, 0.0, 1.0]), np.array([4, 4, 7]), "mean_per_class", np.arange(3))
    made = again(metric)
    assert made == metric
    assert made.statistic == metric.statistic
    for field in ("values", "examples", "classes"):
        np.testing.assert_array_equal(getattr(made, field), getattr(metric, field))
