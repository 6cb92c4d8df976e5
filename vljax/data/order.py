"""Which example stands where in the endless stream that a run trains on."""

from __future__ import annotations

import bisect
from collections.abc import Sequence
from fractions import Fraction
from typing import NamedTuple

from vljax.data.interleave import Interleaving
from vljax.data.randomness import shuffle_seed

MAX_LENGTH = 2**32
"""Examples of a source: what Grain's permutations are made for."""


# Less than Python allows, since Grain rounds lengths up to whole batches.
_ENDLESS = 2**62


class Visit(NamedTuple):
    """One example, at one time."""

    step: int
    """The number of the batch."""
    part: int
    """The number of the source in the mixture."""
    epoch: int
    """How often the source has been gone through before."""
    record: int
    """The index of the example in the source."""


class Order:
    """Position -> visit, without state, so that any position is reached at once.

    A random-access source for Grain. Travels to worker processes.

    Args:
      seed: of the permutations.
      names: of the sources, each different.
      lengths: examples of each, 1 to `MAX_LENGTH`.
      phases: first step and weights of the sources, the first from step 0 on.
      global_batch: examples in a batch.
    """

    def __init__(
        self,
        *,
        seed: int,
        names: Sequence[str],
        lengths: Sequence[int],
        phases: Sequence[tuple[int, Sequence[Fraction]]],
        global_batch: int,
    ) -> None:
        self._lengths = tuple(lengths)
        self._seeds = tuple(shuffle_seed(seed, name) for name in names)
        self._global_batch = global_batch
        self._begins = [step * global_batch for step, _ in phases]
        self._interleavings = [Interleaving(weights) for _, weights in phases]
        # How many examples of each source come before each phase.
        self._before = [[0] * len(self._lengths)]
        for i in range(1, len(phases)):
            counts = self._interleavings[i - 1].counts(self._begins[i] - self._begins[i - 1])
            self._before.append([a + b for a, b in zip(self._before[-1], counts, strict=True)])

    def __len__(self) -> int:
        return _ENDLESS

    def __getitem__(self, position: int) -> Visit:
        from grain.experimental import index_shuffle

        phase = bisect.bisect_right(self._begins, position) - 1
        part, within = self._interleavings[phase].at(position - self._begins[phase])
        length = self._lengths[part]
        epoch, place = divmod(self._before[phase][part] + within, length)
        record = index_shuffle(
            place, max_index=length - 1, seed=(self._seeds[part] + epoch) % 2**32, rounds=4
        )
        return Visit(position // self._global_batch, part, epoch, record)
