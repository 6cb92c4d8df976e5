"""Changes of layout between our arrays and foreign ones, each reversible to the bit.

Ours: kernels are (inputs..., outputs...), heads an axis of their own, convolutions HWIO. PyTorch:
(outputs, inputs), heads within the outputs, convolutions OIHW, query, key and value one array.
"""

from __future__ import annotations

import abc
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

Shape = tuple[int, ...]


class Change(abc.ABC):
    """One foreign array to one or more of ours, and back."""

    name: str

    @abc.abstractmethod
    def foreign_shape(self, own: Sequence[Shape]) -> Shape:
        """The shape of the foreign array, from those of ours."""

    @abc.abstractmethod
    def to_own(self, foreign: np.ndarray, own: Sequence[Shape], part: int) -> np.ndarray:
        """Our array number `part`; a view of the foreign one where that can be."""

    @abc.abstractmethod
    def to_foreign(self, own: Sequence[np.ndarray]) -> np.ndarray:
        """The foreign array."""


@dataclass(frozen=True)
class Single(Change):
    """A foreign array to a single one of ours: axes of ours reordered, then merged."""

    name: str
    order: tuple[int, ...] | None = None
    """The order in which our axes (`inputs` and outputs merged, where that is set) stand there."""
    inputs: int | None = None
    """Our first axes that are one axis there; the others are another one."""
    leading: int = 0
    """Axes of size 1 that stand first there and are none of ours; negative: the other way round."""

    def foreign_shape(self, own: Sequence[Shape]) -> Shape:
        merged = self._merged(own[0])
        reordered = tuple(merged[i] for i in self.order) if self.order else merged
        return (1,) * self.leading + reordered[max(0, -self.leading) :]

    def to_own(self, foreign: np.ndarray, own: Sequence[Shape], part: int) -> np.ndarray:
        merged = self._merged(own[0])
        if self.order is None:
            return foreign.reshape(own[0])
        there = foreign.reshape([merged[i] for i in self.order])
        return there.transpose(np.argsort(self.order)).reshape(own[0])

    def to_foreign(self, own: Sequence[np.ndarray]) -> np.ndarray:
        array = own[0].reshape(self._merged(own[0].shape))
        array = array if self.order is None else array.transpose(self.order)
        return array.reshape(self.foreign_shape([own[0].shape]))

    def _merged(self, own: Shape) -> Shape:
        if self.inputs is None:
            return own
        return math.prod(own[: self.inputs]), math.prod(own[self.inputs :])


@dataclass(frozen=True)
class Stacked(Change):
    """Several of our arrays one after the other along the first foreign axis."""

    each: Change
    """What is done to each of them first."""
    leading: int = 0
    """Axes of size 1 that stand before the first one."""

    @property
    def name(self) -> str:  # type: ignore[override]
        return f"{self.each.name}, stacked"

    def foreign_shape(self, own: Sequence[Shape]) -> Shape:
        shapes = [self.each.foreign_shape([shape]) for shape in own]
        return (*(1,) * self.leading, sum(shape[0] for shape in shapes), *shapes[0][1:])

    def to_own(self, foreign: np.ndarray, own: Sequence[Shape], part: int) -> np.ndarray:
        rows = [self.each.foreign_shape([shape])[0] for shape in own]
        foreign = foreign.reshape(foreign.shape[self.leading :])
        start = sum(rows[:part])
        return self.each.to_own(foreign[start : start + rows[part]], [own[part]], 0)

    def to_foreign(self, own: Sequence[np.ndarray]) -> np.ndarray:
        stacked = np.concatenate([self.each.to_foreign([array]) for array in own])
        return stacked.reshape((1,) * self.leading + stacked.shape)


SAME = Single("as it is")
LINEAR = Single("transposed", order=(1, 0), inputs=1)
"""(outputs, inputs) there; our outputs may be several axes."""
LINEAR_OUT = Single("transposed", order=(1, 0), inputs=2)
"""The same for our (heads, head_dim, embed)."""
FLAT = Single("heads merged", inputs=0, leading=-1)
"""A bias (heads, head_dim) that is one axis there."""
CONVOLUTION = Single("HWIO to OIHW", order=(3, 2, 0, 1))
ROW = Single("first axis dropped", leading=-1)
"""Our (1, n) is (n) there."""
BATCHED = Single("axis added", leading=1)
"""Our (m, n) is (1, m, n) there."""
STACKED_LINEAR, STACKED_FLAT, STACKED = Stacked(LINEAR), Stacked(FLAT), Stacked(SAME)
STACKED_BATCHED = Stacked(SAME, leading=1)
"""Tables one after the other, with an axis for the batch before them."""
PATCHES = Single("patches flattened", order=(1, 0), inputs=3)
"""Our (row, column, channel, embed) is (embed, row x column x channel) there."""
