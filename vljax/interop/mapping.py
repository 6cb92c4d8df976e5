"""Rules that map our parameters to foreign arrays, used for import and for export.

The layouts differ. Our kernels are (inputs..., outputs...), with heads as an axis of their own, and
convolutions are HWIO. PyTorch has (outputs, inputs), heads merged into the outputs, convolutions
OIHW, and often query, key and value in one array.
"""

from __future__ import annotations

import abc
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from vljax.config import UserError
from vljax.interop.files.tensors import Lazy, Tensor, check_float, listed

Shape = tuple[int, ...]


class Change(abc.ABC):
    """A change of layout between one foreign array and one or more of ours, in both directions."""

    name: str
    """A few words for the table of mapped arrays."""

    @abc.abstractmethod
    def foreign_shape(self, own: Sequence[Shape]) -> Shape:
        """The shape of the foreign array, given the shapes of ours."""

    @abc.abstractmethod
    def to_own(self, foreign: np.ndarray, own: Sequence[Shape], part: int) -> np.ndarray:
        """Our array with the index `part`, as a view of the foreign array where possible."""

    @abc.abstractmethod
    def to_foreign(self, own: Sequence[np.ndarray]) -> np.ndarray:
        """The foreign array."""


@dataclass(frozen=True)
class Single(Change):
    """One foreign array and one of ours: our axes are merged, then reordered.

    >>> kernel = np.zeros((6, 2, 3))  # (inputs, heads, head_dim)
    >>> LINEAR.to_foreign([kernel]).shape
    (6, 6)
    >>> LINEAR.to_own(np.zeros((6, 6)), [(6, 2, 3)], 0).shape
    (6, 2, 3)
    """

    name: str
    order: tuple[int, ...] | None = None
    """The foreign order of our axes (merged ones, if `inputs` is set)."""
    inputs: int | None = None
    """How many of our first axes are merged to one axis; the others become a second axis."""
    leading: int = 0
    """Extra foreign axes of size 1 in front; if negative, our extra axes in front."""

    def foreign_shape(self, own: Sequence[Shape]) -> Shape:
        merged = self._merged(own[0])
        reordered = tuple(merged[i] for i in self.order) if self.order else merged
        return (1,) * self.leading + reordered[max(0, -self.leading) :]

    def to_own(self, foreign: np.ndarray, own: Sequence[Shape], part: int) -> np.ndarray:
        merged = self._merged(own[0])
        if self.order is None:
            return foreign.reshape(own[0])
        unmerged = foreign.reshape([merged[i] for i in self.order])
        return unmerged.transpose(np.argsort(self.order)).reshape(own[0])

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
    """Several of our arrays, concatenated along the first foreign axis."""

    each: Change
    """The change of each array before concatenation."""
    leading: int = 0
    """Extra foreign axes of size 1 in front."""

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


SAME = Single("unchanged")
LINEAR = Single("transposed", order=(1, 0), inputs=1)
"""A kernel; the foreign one is (outputs, inputs). Our outputs may be several axes."""
LINEAR_OUT = Single("transposed", order=(1, 0), inputs=2)
"""The same for the kernel of an attention's output; ours is (heads, head_dim, embed)."""
FLAT = Single("heads merged", inputs=0, leading=-1)
"""Our bias (heads, head_dim); the foreign one has one axis."""
CONVOLUTION = Single("HWIO to OIHW", order=(3, 2, 0, 1))
ROW = Single("first axis dropped", leading=-1)
"""Our array (1, n); the foreign one is (n)."""
BATCHED = Single("axis added", leading=1)
"""Our array (m, n); the foreign one is (1, m, n)."""
STACKED_LINEAR, STACKED_FLAT, STACKED = Stacked(LINEAR), Stacked(FLAT), Stacked(SAME)
STACKED_BATCHED = Stacked(SAME, leading=1)
"""Concatenated tables with a batch axis in front."""
PATCHES = Single("patches flattened", order=(1, 0), inputs=3)
"""Our (row, column, channel, embed); the foreign kernel is (embed, row x column x channel)."""


@dataclass(frozen=True)
class Rule:
    """Which foreign array holds which of ours; `{i}` stands for a layer number."""

    own: tuple[str, ...]
    """Our unrolled paths, such as `image/blocks/{i}/mlp/up/kernel`."""
    foreign: str
    change: Change


def rule(own: str | Sequence[str], foreign: str, change: Change = SAME) -> Rule:
    """A rule for one of our paths, or for several that share one foreign array.

    >>> rules = [rule("text/norm/scale", "ln_final.weight")]
    >>> pairs = pair(rules, {"text/norm/scale": (8,)}, "open_clip")
    >>> ones = Lazy((8,), np.dtype(np.float16), lambda: np.ones(8, np.float16))
    >>> own = to_own(pairs, {"ln_final.weight": ones}, (), "FILE")
    >>> own["text/norm/scale"].read().dtype
    dtype('float32')
    """
    return Rule((own,) if isinstance(own, str) else tuple(own), foreign, change)


@dataclass(frozen=True)
class Pair:
    """A rule applied to a model: one foreign array and the parameters that it holds."""

    own: tuple[str, ...]
    foreign: str
    change: Change
    shapes: tuple[Shape, ...]
    """The shapes of our arrays."""

    @property
    def foreign_shape(self) -> Shape:
        return self.change.foreign_shape(self.shapes)


def pair(rules: Sequence[Rule], own: Mapping[str, Shape], what: str) -> list[Pair]:
    """The rules applied to a model, each once for every layer.

    Args:
      rules: the rules; together they have to name every path exactly once.
      own: the shape of every parameter, by its unrolled path.
      what: the foreign format, for messages.

    Raises:
      UserError: if no rule names a parameter, or a rule names one that the model lacks.
    """
    pairs: list[Pair] = []
    for each in rules:
        layers = _layers(each.own[0], own)
        if not layers:
            raise UserError(f"{what} has {each.foreign!r}, but this model lacks {each.own[0]!r}")
        for layer in layers:
            paths = tuple(path.replace("{i}", layer) for path in each.own)
            missing = [path for path in paths if path not in own]
            if missing:
                raise UserError(f"{what} has {each.foreign!r}, but this model lacks {missing[0]!r}")
            shapes = tuple(own[path] for path in paths)
            pairs.append(Pair(paths, each.foreign.replace("{i}", layer), each.change, shapes))
    mapped = [path for one in pairs for path in one.own]
    if left := sorted(set(own) - set(mapped)):
        raise UserError(f"{what} cannot store {listed(left)}")
    if twice := sorted({path for path in mapped if mapped.count(path) > 1}):
        raise ValueError(f"two rules name {listed(twice)}")
    return pairs


def _layers(pattern: str, own: Iterable[str]) -> list[str]:
    """The layer numbers of the paths that match a pattern; [""] for a match without `{i}`."""
    expression = re.compile(re.escape(pattern).replace(re.escape("{i}"), r"(\d+)"))
    found = (expression.fullmatch(path) for path in own)
    return ["".join(match.groups()) for match in found if match]


def to_own(
    pairs: Sequence[Pair], tensors: Mapping[str, Tensor], ignored: Sequence[str], source: str
) -> dict[str, Lazy]:
    """Our parameters in float32, read from foreign arrays.

    Args:
      pairs: see `pair`.
      tensors: the foreign arrays.
      ignored: regular expressions of names that are not parameters (tables of 0, 1, 2, ...).
      source: the file or folder, for messages.

    Raises:
      UserError: if a foreign array is missing or left over, or has another shape or data type.
    """
    missing = [one.foreign for one in pairs if one.foreign not in tensors]
    if missing:
        raise UserError(f"{source} lacks {listed(missing)}")
    known = {one.foreign for one in pairs}
    left = [
        name
        for name in tensors
        if name not in known and not any(re.fullmatch(pattern, name) for pattern in ignored)
    ]
    if left:
        raise UserError(f"{source} holds arrays that this model lacks: {listed(left)}")
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
    """Foreign arrays, made from our parameters, in the order of the pairs.

    Reading one raises UserError if a number overflows `dtype`.
    """
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
