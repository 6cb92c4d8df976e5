"""Bootstrap intervals for means of per-example values, and for differences of two models."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from vljax.config import UserError
from vljax.evaluation.metrics.checks import check_finite, check_same_length, matched

_BLOCK_ELEMENTS = 1 << 22


class Interval(NamedTuple):
    """A mean with its interval."""

    mean: float
    low: float
    high: float


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
    if not 0 < level < 1:
        raise UserError(f"level: must be between 0 and 1, such as 0.95, got {level}")
    if resamples < 1:
        raise UserError(f"resamples: must be at least 1, got {resamples}")
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
    tail = (1 - level) / 2
    low, high = np.quantile(means, [tail, 1 - tail])
    return Interval(float(values.mean(dtype=np.float64)), float(low), float(high))


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
