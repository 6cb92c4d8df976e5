"""The names of our parameters and of foreign ones: one list of rules, read in both directions."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from vljax.config import UserError
from vljax.interop.axes import SAME, Change, Shape
from vljax.interop.tensors import Lazy, Tensor, check_float

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
