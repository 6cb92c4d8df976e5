"""Losses that stand out from those before them."""

from __future__ import annotations

import math
from collections import deque

import numpy as np

WINDOW = 128
LEAST = 32
"""Losses that must be known before one can be said to stand out."""
BOUND = 8.0
"""Robust standard deviations above the median."""

_MAD_TO_DEVIATION = 1.4826
"""Median absolute deviation to standard deviation, for a normal distribution."""
_FLOOR = 1e-3
"""Least deviation relative to the median, since the losses of a plateau hardly differ."""


class SpikeDetector:
    """Compares each loss with the median and the spread of the last ones.

    Both are robust: neither a spike nor the next ones behind it move them. A loss that is not
    finite is passed over; its step changes nothing and is counted elsewhere.
    """

    def __init__(self) -> None:
        self._last: deque[float] = deque(maxlen=WINDOW)

    def deviations(self, loss: float) -> float | None:
        """How many deviations a loss lies above the median where it is a spike, else None.

        Args:
          loss: of the next step.
        """
        if not math.isfinite(loss):
            return None
        before = np.asarray(self._last)
        self._last.append(loss)
        if len(before) < LEAST:
            return None
        median = np.median(before)
        spread = _MAD_TO_DEVIATION * np.median(np.abs(before - median))
        above = float((loss - median) / max(spread, _FLOOR * abs(median), np.finfo(float).tiny))
        return above if above > BOUND else None
