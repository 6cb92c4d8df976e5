"""Numbers summed up: quantiles and a histogram."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

_BINS = 24


@dataclass(frozen=True)
class Histogram:
    """Counts between edges.

    Attributes:
      edges: ascending, one more than counts; a bin holds its lower edge.
      counts: how many values lie in each.
    """

    edges: tuple[float, ...]
    counts: tuple[int, ...]

    def as_dict(self) -> dict[str, Any]:
        """As JSON data."""
        return {"edges": list(self.edges), "counts": list(self.counts)}


def distribution(values: np.ndarray, scale: Literal["linear", "log"] = "linear") -> dict[str, Any]:
    """Number, smallest, 5 %, median, mean, 95 %, largest, and a histogram; as JSON data.

    Args:
      values: one or more, finite; above 0 where the scale is log.
      scale: of the histogram's bins.
    """
    low, middle, high = np.quantile(values, (0.05, 0.5, 0.95), method="inverted_cdf").tolist()
    edges = log_edges(values) if scale == "log" else linear_edges(values)
    return {
        "number": len(values),
        "smallest": values.min().item(),
        "5%": low,
        "median": middle,
        "mean": values.mean().item(),
        "95%": high,
        "largest": values.max().item(),
        "histogram": histogram(values, edges).as_dict(),
    }


def histogram(values: np.ndarray, edges: np.ndarray) -> Histogram:
    """Values outside of the edges are counted in the first and last bin."""
    inner = np.searchsorted(edges[1:-1], values, side="right")
    counts = np.bincount(inner, minlength=len(edges) - 1)
    return Histogram(tuple(edges.tolist()), tuple(counts.tolist()))


def linear_edges(values: np.ndarray) -> np.ndarray:
    """Round edges, so many that all but the largest half a percent of the values fall between."""
    lowest, highest = math.floor(values.min()), float(np.quantile(values, 0.995))
    step = _round_up(max(highest - lowest, 1) / _BINS)
    first = math.floor(lowest / step) * step
    count = max(1, math.floor((highest - first) / step) + 1)
    return first + step * np.arange(count + 1)


def log_edges(values: np.ndarray) -> np.ndarray:
    """Edges at powers of 2, 2^(1/2) or 2^(1/4), the finest that need few bins."""
    low, high = math.log2(values.min()), math.log2(values.max())
    parts = next((parts for parts in (4, 2, 1) if (high - low) * parts <= _BINS), 1)
    first, last = math.floor(low * parts + 1e-9), math.floor(high * parts + 1e-9) + 1
    return 2.0 ** (np.arange(first, last + 1) / parts)


def _round_up(step: float) -> int:
    """The next of 1, 2, 5, 10, 20, ..."""
    power = 10 ** max(0, math.floor(math.log10(step)))
    return next(int(power * digit) for digit in (1, 2, 5, 10) if power * digit >= step - 1e-9)
