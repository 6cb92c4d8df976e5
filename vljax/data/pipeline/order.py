"""The global order of training examples: from a position in the stream to an example.

The order has no state: `ExampleOrder` computes the example at any position directly. `Interleaving`
gives the source of the mixture, and Grain's permutation gives the example of that source.
"""

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
"""Most examples of a source: the limit of Grain's permutations."""

# Below the largest length in Python (2**63 - 1), since Grain rounds up to whole batches.
_ENDLESS = 2**62


class ScheduledExample(NamedTuple):
    """The example at one position of the stream."""

    step: int
    """Number of the batch."""
    part: int
    """Number of the source in the mixture."""
    epoch: int
    """How many epochs of the source came before."""
    example_index: int
    """Index of the example in the source."""


class ExampleOrder:
    """The endless stream of training examples, a random-access source for Grain.

    Can be pickled for worker processes.

    >>> order = ExampleOrder(
    ...     seed=0, names=["a"], lengths=[3], phases=[(0, [Fraction(1)])], global_batch=2
    ... )
    >>> order[3]  # the second example of batch 1, the first of epoch 1
    ScheduledExample(step=1, part=0, epoch=1, example_index=2)

    Args:
      seed: seed of the permutations.
      names: names of the sources, each different.
      lengths: number of examples of each source, 1 to `MAX_LENGTH`.
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

    def __getitem__(self, position: int) -> ScheduledExample:
        from grain.experimental import index_shuffle

        phase = bisect.bisect_right(self._begins, position) - 1
        part, within = self._interleavings[phase].at(position - self._begins[phase])
        length = self._lengths[part]
        epoch, position_in_epoch = divmod(self._before[phase][part] + within, length)
        # The permutation that `MapDataset.shuffle` makes, with its `rounds`.
        index = index_shuffle(
            position_in_epoch,
            max_index=length - 1,
            seed=(self._seeds[part] + epoch) % 2**32,
            rounds=4,
        )
        return ScheduledExample(position // self._global_batch, part, epoch, index)


WINDOW_BOUND = 3.36
"""Upper bound of the error of the number of a part's elements in any window of an interleaving."""


class Interleaving:
    """Interleaves parts in given proportions, which hold in every window of the stream.

    Two parts of weights a and b share a stream so that the first has round(n a / (a + b)) of the
    first n elements. With more parts, the two lightest are joined until one is left, as in a
    Huffman code. In a window of m elements, part i then has m * w_i elements, within less than
    `bound(i)`: each split adds an error of less than 1 to its share of the error of the split
    above. A node's sibling was at least as heavy as the node's children when these were joined, so
    weights grow towards the root at least like the Fibonacci numbers. The sum of the reciprocals of
    the Fibonacci numbers, 3.36, bounds the error for any number of parts and any weights.

    If the weights are in proportion to whole numbers with sum s, the s elements from each multiple
    of s on have exactly these numbers of each part.

    `grain.MapDataset.mix` (Grain 0.2.18) is not used: it rounds weights down to 1 % of the
    smallest (3 : 1.9 becomes 157 : 100, so the error grows without bound), and its error grows with
    the number of parts: windows in the first 2,000 elements are off by 3.0 elements with 2 parts of
    random weights, 4.4 with 10, 10 with 30 and 15 with 100. It refuses a weight of 0, and weights
    cannot change by step.

    >>> interleaving = Interleaving([Fraction("0.7"), Fraction("0.3")])
    >>> [interleaving.at(position)[0] for position in range(10)]
    [0, 1, 0, 0, 1, 0, 0, 0, 1, 0]

    Args:
      weights: weights of the parts, in any unit; none negative, at least one positive.
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
        number = len(weights)  # breaks ties between equal weights
        while len(heap) > 1:
            light, heavy = heapq.heappop(heap), heapq.heappop(heap)
            total = light[0] + heavy[0]
            split = _Split(light[0], total, (light[2], heavy[2]))
            heapq.heappush(heap, (total, number, split))
            number += 1
        self._root = heap[0][2]

    def at(self, position: int) -> tuple[int, int]:
        """The part at a position, and how many elements of that part come before it."""
        node = self._root
        while isinstance(node, _Split):
            before = node.first_child_count(position)
            if node.first_child_count(position + 1) > before:
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
                first = node.first_child_count(count)
                open_nodes += zip(node.children, (first, count - first), strict=True)
            else:
                counts[node] = count
        return counts

    def bound(self, part: int) -> float:
        """Upper bound of the error of the number of a part's elements in a window."""
        return _bound(self._root, part, self._weights[part]) or 0.0


@dataclass(frozen=True)
class _Split:
    """Two parts, or splits of parts, that share a stream in the ratio `first : total - first`."""

    first: int
    total: int
    children: tuple[_Split | int, _Split | int]

    def first_child_count(self, count: int) -> int:
        """How many of the first `count` elements belong to the first child."""
        return (count * self.first + self.total // 2) // self.total


def _bound(node: _Split | int, part: int, weight: int) -> float | None:
    """Sum of `weight / node weight` over the nodes on the path from a node down to a part.

    The node itself does not count. None if the part is not below it.
    """
    if not isinstance(node, _Split):
        return 0.0 if node == part else None
    child_weights = (node.first, node.total - node.first)
    for child, child_weight in zip(node.children, child_weights, strict=True):
        below = _bound(child, part, weight)
        if below is not None:
            return below + weight / child_weight
    return None
