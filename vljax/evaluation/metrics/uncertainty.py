"""Metrics with the values of their examples, bootstrap intervals, and differences of two models."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
from jaxtyping import Float, Int

from vljax.config import UserError
from vljax.evaluation.metrics.checks import check_finite, check_same_length, matched

_BLOCK_ELEMENTS = 1 << 22


Statistic = Literal["mean", "median", "mean_per_class", "worst_class"]
"""How a metric follows from the values of its examples; mean_per_class: the mean over classes of
the mean within each; worst_class: the lowest of these means."""


class Interval(NamedTuple):
    """A mean, or another metric, with its interval."""

    mean: float
    low: float
    high: float


class Sampled(float):
    """A metric that knows the values of its examples; in all else a float.

    Evaluators return it, so that `interval` and `difference` can tell how sure a number is.

    >>> accuracy = Sampled(np.array([1.0, 0.0, 1.0, 1.0]), np.array([0, 0, 1, 2]))
    >>> accuracy
    0.75
    >>> accuracy.examples.tolist()
    [0, 0, 1, 2]
    """

    values: Float[np.ndarray, " values"]
    """One for each query, question or image; the metric is their mean unless `statistic` is set."""
    examples: Int[np.ndarray, " values"]
    """The example that each value is about, such as the image of a caption. Values of the same
    example are not independent, so intervals draw examples."""
    statistic: Statistic
    classes: Int[np.ndarray, " values"] | None
    """The class of each value, from 0, for `mean_per_class` and `worst_class`."""

    def __new__(
        cls,
        values: np.ndarray,
        examples: Int[np.ndarray, " values"] | None = None,
        statistic: Statistic = "mean",
        classes: Int[np.ndarray, " values"] | None = None,
    ) -> Sampled:
        """The metric of all values; without `examples`, each value is an example by itself."""
        value = _value(np.asarray(values, np.float64), statistic, classes)
        made = super().__new__(cls, value)
        made.values, made.statistic, made.classes = (
            np.asarray(values, np.float64),
            statistic,
            classes,
        )
        made.examples = np.arange(len(values)) if examples is None else np.asarray(examples)
        return made

    def __getnewargs__(self) -> tuple[Any, ...]:
        # What copies and pickles call `__new__` with; that of a float is its number.
        return self.values, self.examples, self.statistic, self.classes

    def of(self, chosen: Int[np.ndarray, " chosen"]) -> float:
        """The metric of some of the values, by their positions."""
        classes = None if self.classes is None else self.classes[chosen]
        return _value(self.values[chosen], self.statistic, classes)


def _value(values: np.ndarray, statistic: Statistic, classes: np.ndarray | None) -> float:
    if not len(values):
        raise ValueError("a metric of no examples is undefined")
    if statistic == "median":
        return float(np.median(values))
    if statistic == "mean":
        return float(np.mean(values))
    if classes is None:
        raise ValueError(f"{statistic} needs the class of each value")
    count, total = np.bincount(classes), np.bincount(classes, weights=values)
    means = total[count > 0] / count[count > 0]
    return float(means.min() if statistic == "worst_class" else means.mean())


def interval(
    metric: Sampled, *, level: float = 0.95, resamples: int = 2_000, seed: int = 0
) -> Interval | None:
    """The metric with its percentile bootstrap interval, drawn over examples (`bootstrap_mean`).

    None if there is only one example, which says nothing about others.

    >>> interval(Sampled(np.array([1.0, 1, 0, 1, 0, 1, 1, 1])))
    Interval(mean=0.75, low=0.375, high=1.0)

    Raises:
      UserError: as `bootstrap_mean` does.
    """
    if len(np.unique(metric.examples)) < 2:
        return None
    options = {"level": level, "resamples": resamples, "seed": seed}
    if metric.statistic == "mean":
        return bootstrap_mean(metric.values, metric.examples, **options)  # type: ignore[arg-type]
    return _bootstrap(float(metric), metric.of, metric.examples, **options)  # type: ignore[arg-type]


def difference(
    first: Sampled, second: Sampled, *, level: float = 0.95, resamples: int = 2_000, seed: int = 0
) -> Interval | None:
    """The second metric minus the first, of the same examples, with the paired interval.

    None if there is only one example.

    >>> difference(Sampled(np.array([0.0, 1, 0, 0])), Sampled(np.array([1.0, 1, 0, 1])))
    Interval(mean=0.5, low=0.0, high=1.0)

    Raises:
      UserError: if the examples or the metrics differ, and as `bootstrap_mean` does.
    """
    if not np.array_equal(first.examples, second.examples):
        raise UserError(
            f"the first has {len(first.examples)} values and the second {len(second.examples)}, "
            "not of the same examples; compare models on the same data"
        )
    if first.statistic != second.statistic:
        raise UserError(
            f"the first is a {first.statistic} and the second a {second.statistic}; "
            "compare the same metric"
        )
    if len(np.unique(first.examples)) < 2:
        return None
    options = {"level": level, "resamples": resamples, "seed": seed}
    if first.statistic == "mean":
        change = second.values - first.values
        return bootstrap_mean(change, first.examples, **options)  # type: ignore[arg-type]

    def change_of(chosen: np.ndarray) -> float:
        return second.of(chosen) - first.of(chosen)

    change = float(second) - float(first)
    return _bootstrap(change, change_of, first.examples, **options)  # type: ignore[arg-type]


def _bootstrap(
    whole: float,
    statistic: Callable[[np.ndarray], float],
    examples: Int[np.ndarray, " values"],
    *,
    level: float,
    resamples: int,
    seed: int,
) -> Interval:
    """The interval of any statistic; each resample draws examples with all their values."""
    _check_options(level, resamples)
    _, index = np.unique(examples, return_inverse=True)
    order = np.argsort(index, kind="stable")
    sizes = np.bincount(index)
    starts = np.cumsum(sizes) - sizes
    rng, found = np.random.default_rng(seed), np.empty(resamples)
    for i in range(resamples):
        drawn = rng.integers(0, len(sizes), len(sizes))
        counts = sizes[drawn]
        # The positions of all values of the drawn examples.
        within = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
        found[i] = statistic(order[np.repeat(starts[drawn], counts) + within])
    return _percentiles(whole, found, level)


def _percentiles(
    whole: float, resampled: Float[np.ndarray, " resamples"], level: float
) -> Interval:
    """The metric of all examples, with the percentiles of its resamples."""
    tail = (1 - level) / 2
    low, high = np.quantile(resampled, [tail, 1 - tail])
    return Interval(whole, float(low), float(high))


def _check_options(level: float, resamples: int) -> None:
    if not 0 < level < 1:
        raise UserError(f"level: must be between 0 and 1, such as 0.95, got {level}")
    if resamples < 1:
        raise UserError(f"resamples: must be at least 1, got {resamples}")


def bootstrap_mean(
    values: Float[np.ndarray, " examples"],
    clusters: Sequence[Hashable] | Int[np.ndarray, " examples"] | None = None,
    *,
    level: float = 0.95,
    resamples: int = 10_000,
    seed: int = 0,
) -> Interval:
    """The mean with its percentile bootstrap interval (Efron 1979).

    Each resample draws as many clusters as there are, with replacement, and takes the mean over
    all their examples. Questions about one image are not independent: with the image as cluster
    the interval is as wide as it should be. Without clusters it is that of
    `scipy.stats.bootstrap(method="percentile")` for the same seed.

    >>> right = np.array([1.0, 1, 0, 1, 0, 1, 1, 1])
    >>> bootstrap_mean(right)
    Interval(mean=0.75, low=0.375, high=1.0)
    >>> bootstrap_mean(right, ["a", "a", "b", "a", "b", "c", "c", "c"])
    Interval(mean=0.75, low=0.0, high=1.0)

    Args:
      values: one an example, such as 1 if it is right.
      clusters: what each example shares with others, such as its image; None: each is by itself.
      level: the share of resamples inside the interval.
      resamples: how many to draw. Their memory is bounded by blocks.
      seed: of `numpy.random.default_rng`.

    Raises:
      UserError: if there are fewer than two examples or clusters, or a value is NaN or infinite; if
        `level` is not between 0 and 1, or `resamples` below 1.
    """
    check_finite(values, "values")
    _check_options(level, resamples)
    if clusters is None:
        index = np.arange(len(values))
    else:
        check_same_length(values=values, clusters=clusters)
        number: dict[Hashable, int] = {}
        keys = clusters.tolist() if isinstance(clusters, np.ndarray) else clusters
        index = np.array([number.setdefault(key, len(number)) for key in keys])
    sizes = np.bincount(index)
    if len(sizes) < 2:
        what = "examples" if clusters is None else "clusters"
        raise UserError(f"{what}: there is one; an interval needs at least two")
    sums = np.bincount(index, weights=values.astype(np.float64))
    rng, means = np.random.default_rng(seed), np.empty(resamples)
    rows = max(1, _BLOCK_ELEMENTS // len(sizes))
    for start in range(0, resamples, rows):
        count = min(rows, resamples - start)
        drawn = rng.integers(0, len(sizes), (count, len(sizes)))
        means[start : start + count] = sums[drawn].sum(axis=1) / sizes[drawn].sum(axis=1)
    return _percentiles(float(values.mean(dtype=np.float64)), means, level)


def paired_difference(
    first: Sequence[tuple[Hashable, float]],
    second: Sequence[tuple[Hashable, float]],
    clusters: Sequence[Hashable] | None = None,
    *,
    level: float = 0.95,
    resamples: int = 10_000,
    seed: int = 0,
) -> Interval:
    """How much better the second model is on the same examples: mean difference with interval.

    Each example counts by its difference, so what makes it hard for both models cancels. If 0 is
    outside the interval, the models differ.

    >>> first = [("q1", 0.0), ("q2", 1.0), ("q3", 0.0), ("q4", 0.0)]
    >>> second = [("q4", 1.0), ("q1", 1.0), ("q2", 1.0), ("q3", 0.0)]
    >>> paired_difference(first, second)
    Interval(mean=0.5, low=0.0, high=1.0)

    Args:
      first: id and value of each example of the first model.
      second: those of the second model, in any order.
      clusters: what each example of `first` shares with others, in its order (`bootstrap_mean`).
      level: the share of resamples inside the interval.
      resamples: how many to draw.
      seed: of `numpy.random.default_rng`.

    Raises:
      UserError: if an id is there twice or in one of the two only, and as `bootstrap_mean`.
    """
    names = ("second", "first")
    # `matched` returns the order of `first`, which it reads as a dict: its ids must be distinct.
    matched(first, dict(second), names=names[::-1])
    theirs, ours = matched(second, dict(first), names=names)
    difference = np.array(theirs, np.float64) - np.array(ours, np.float64)
    return bootstrap_mean(difference, clusters, level=level, resamples=resamples, seed=seed)
