"""The names of our parameters and of foreign ones: one list of rules, read in both directions."""

from __future__ import annotations

import abc
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from vljax.config import UserError
from vljax.interop.tensors import Lazy, Tensor, check_float

# Ours: kernels are (inputs..., outputs...), heads an axis of their own, convolutions HWIO. PyTorch:
# (outputs, inputs), heads within the outputs, convolutions OIHW, query, key and value one array.

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


_SHOWN = 6


@dataclass(frozen=True)
class Rule:
    """Our arrays and the foreign one that holds the same numbers; `{i}` stands for a layer."""

    own: tuple[str, ...]
    """Unrolled paths: `image/blocks/{i}/mlp/up/kernel`."""
    foreign: str
    change: Change


def rule(own: str | Sequence[str], foreign: str, change: Change = SAME) -> Rule:
    """A rule; a single path of ours need not be in a sequence."""
    return Rule((own,) if isinstance(own, str) else tuple(own), foreign, change)


@dataclass(frozen=True)
class Pair:
    """A foreign array and where its numbers stand here."""

    own: tuple[str, ...]
    foreign: str
    change: Change
    shapes: tuple[Shape, ...]
    """Of our arrays."""

    @property
    def foreign_shape(self) -> Shape:
        return self.change.foreign_shape(self.shapes)


def pair(rules: Sequence[Rule], own: Mapping[str, Shape], what: str) -> list[Pair]:
    """The rules for each layer that there is.

    Args:
      rules: each path of ours is in one of them.
      own: the shape of every parameter, by its unrolled path.
      what: the foreign format, for messages.

    Raises:
      UserError: if a parameter is in no rule, or a rule is about parameters that are not there.
    """
    pairs: list[Pair] = []
    for each in rules:
        layers = _layers(each.own[0], own)
        if not layers:
            raise UserError(f"{what} has {each.foreign!r}, and this model no {each.own[0]!r}")
        for layer in layers:
            paths = tuple(path.replace("{i}", layer) for path in each.own)
            missing = [path for path in paths if path not in own]
            if missing:
                raise UserError(f"{what} has {each.foreign!r}, and this model no {missing[0]!r}")
            shapes = tuple(own[path] for path in paths)
            pairs.append(Pair(paths, each.foreign.replace("{i}", layer), each.change, shapes))
    _all_once([path for one in pairs for path in one.own], own, what)
    return pairs


def _layers(pattern: str, own: Iterable[str]) -> list[str]:
    """What `{i}` stands for in each of the paths that a pattern fits; "" for one without."""
    expression = re.compile(re.escape(pattern).replace(re.escape("{i}"), r"(\d+)"))
    found = (expression.fullmatch(path) for path in own)
    return ["".join(match.groups()) for match in found if match]


def _all_once(mapped: list[str], own: Iterable[str], what: str) -> None:
    left = sorted(set(own) - set(mapped))
    if left:
        raise UserError(f"{what} has no place for {_listed(left)}")
    twice = sorted({path for path in mapped if mapped.count(path) > 1})
    if twice:
        raise ValueError(f"two rules are about {_listed(twice)}")


def to_own(
    pairs: Sequence[Pair], tensors: Mapping[str, Tensor], ignored: Sequence[str], source: str
) -> dict[str, Lazy]:
    """Our parameters in float32, made of foreign ones.

    Args:
      pairs: what is mapped.
      tensors: the foreign arrays.
      ignored: expressions of names that hold no parameters (tables of positions 0, 1, 2, ...).
      source: the file or folder, for messages.

    Raises:
      UserError: if a foreign array is missing, is left over, or has another shape or format.
    """
    missing = [one.foreign for one in pairs if one.foreign not in tensors]
    if missing:
        raise UserError(f"{source} lacks {_listed(missing)}")
    known = {one.foreign for one in pairs}
    left = [
        name
        for name in tensors
        if name not in known and not any(re.fullmatch(pattern, name) for pattern in ignored)
    ]
    if left:
        raise UserError(f"{source} holds what this model has no place for: {_listed(left)}")
    made: dict[str, Lazy] = {}
    for one in pairs:
        tensor = tensors[one.foreign]
        check_float(one.foreign, tensor.dtype, source)
        if tuple(tensor.shape) != one.foreign_shape:
            raise UserError(
                f"{source}: {one.foreign!r} has the shape {list(tensor.shape)}, its configuration"
                f" asks for {list(one.foreign_shape)}"
            )
        for part, (path, shape) in enumerate(zip(one.own, one.shapes, strict=True)):
            made[path] = Lazy(shape, np.dtype(np.float32), _own(one, tensor, part))
    return made


def _own(one: Pair, tensor: Tensor, part: int) -> Any:
    def make() -> np.ndarray:
        array = one.change.to_own(tensor.read(), one.shapes, part)
        return np.ascontiguousarray(array, np.float32).reshape(one.shapes[part])

    return make


def to_foreign(
    pairs: Sequence[Pair], own: Mapping[str, Tensor], dtype: np.dtype[Any]
) -> dict[str, Lazy]:
    """Foreign arrays, made of our parameters, in the order of the pairs."""
    return {one.foreign: Lazy(one.foreign_shape, dtype, _foreign(one, own, dtype)) for one in pairs}


def _foreign(one: Pair, own: Mapping[str, Tensor], dtype: np.dtype[Any]) -> Any:
    def make() -> np.ndarray:
        array = one.change.to_foreign([own[path].read() for path in one.own])
        with np.errstate(over="ignore"):
            made = np.ascontiguousarray(array, dtype).reshape(one.foreign_shape)
        if not np.isfinite(made).all() and np.isfinite(array).all():
            raise UserError(f"--dtype: {one.foreign!r} does not fit {dtype}; use another one")
        return made

    return make


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(repr(name) for name in names[:_SHOWN]) + more
