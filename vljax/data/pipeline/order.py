"""Which example stands where in the endless stream that a run trains on."""

from __future__ import annotations

import bisect
import heapq
import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import NamedTuple

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


# --- Several streams put together in given proportions, which hold in every window ----------------

WINDOW_BOUND = 3.36
"""No window of an interleaving has so many elements of a part too many or too few."""


@dataclass(frozen=True)
class _Split:
    """Two parts, or splits of parts, that share a stream as `first` to `total - first`."""

    first: int
    total: int
    children: tuple[_Split | int, _Split | int]

    def taken(self, count: int) -> int:
        """How many of the first `count` elements are the first child's."""
        return (count * self.first + self.total // 2) // self.total


class Interleaving:
    """Element n of a stream belongs to which part, and is the how-maniest of it: without state.

    Two parts of weights a and b share a stream so that the first has round(n a / (a + b)) of the
    first n elements. Of more, the two lightest are put together until one is left, as in a Huffman
    code. In a window of m elements, part i then has m * w_i of them, within less than
    `bound(i)`: a split adds less than 1, and of what came from above only its share. Since weights
    in the tree grow upward at least like the Fibonacci numbers, this is less than the sum of their
    reciprocals, 3.36, for any number of parts and any weights: the sibling of a node was no lighter
    than the node's children when these were put together.

    Where the weights are in the proportion of whole numbers with sum s, each s elements from a
    multiple of s on hold exactly so many of each part.

    Args:
      weights: of the parts, in any unit; none negative, at least one positive.
    """

    def __init__(self, weights: Sequence[Fraction]) -> None:
        if min(weights) < 0 or not any(weights):
            raise ValueError(f"weights must be 0 or more and not all 0, got {list(weights)}")
        unit = math.lcm(*(weight.denominator for weight in weights))
        self._weights = [int(weight * unit) for weight in weights]
        heap: list[tuple[int, int, _Split | int]] = [
            (weight, part, part) for part, weight in enumerate(self._weights) if weight
        ]
        heapq.heapify(heap)
        number = len(weights)  # decides between equal weights
        while len(heap) > 1:
            light, heavy = heapq.heappop(heap), heapq.heappop(heap)
            total = light[0] + heavy[0]
            split = _Split(light[0], total, (light[2], heavy[2]))
            heapq.heappush(heap, (total, number, split))
            number += 1
        self._root = heap[0][2]

    def at(self, position: int) -> tuple[int, int]:
        """The part that an element belongs to, and how many of that part come before it."""
        node = self._root
        while isinstance(node, _Split):
            before = node.taken(position)
            if node.taken(position + 1) > before:
                node, position = node.children[0], before
            else:
                node, position = node.children[1], position - before
        return node, position

    def counts(self, length: int) -> list[int]:
        """How many of the first `length` elements belong to each part."""
        counts = [0] * len(self._weights)
        open_nodes = [(self._root, length)]
        while open_nodes:
            node, count = open_nodes.pop()
            if isinstance(node, _Split):
                first = node.taken(count)
                open_nodes += zip(node.children, (first, count - first), strict=True)
            else:
                counts[node] = count
        return counts

    def bound(self, part: int) -> float:
        """What the number of a part's elements in a window differs by less than."""
        return _bound(self._root, part, self._weights[part]) or 0.0


def _bound(node: _Split | int, part: int, weight: int) -> float | None:
    """The sum of `weight / weight of the node` from below this node to a part; None elsewhere."""
    if not isinstance(node, _Split):
        return 0.0 if node == part else None
    for child, of_child in zip(node.children, (node.first, node.total - node.first), strict=True):
        below = _bound(child, part, weight)
        if below is not None:
            return below + weight / of_child
    return None
