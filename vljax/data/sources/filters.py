"""Which examples of a source are left out, decided when its index is built.

A filter looks at one column of what is written about an example. The order of examples is a
permutation of those that all filters keep.
"""

from __future__ import annotations

import abc
import functools
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from vljax.config import Component


@dataclass(frozen=True)
class Filter(Component, abc.ABC):
    """Keeps or leaves out an example by the value in a column."""

    column: str
    """As the source names its columns."""

    @abc.abstractmethod
    def keeps(self, value: Any) -> bool:
        """Whether an example with this value stays; None stands for no value."""

    @property
    @abc.abstractmethod
    def reason(self) -> str:
        """Why an example was left out."""


@dataclass(frozen=True)
class Range(Filter, name="range"):
    """Numbers between two bounds, such as a width in pixels; no number is left out."""

    minimum: float | None = None
    """The least that stays."""
    maximum: float | None = None
    """The most that stays."""

    def problems(self) -> Iterator[tuple[str, str]]:
        yield from _bounds(self.minimum, self.maximum)

    def keeps(self, value: Any) -> bool:
        try:
            return _between(float(value), self.minimum, self.maximum)
        except (TypeError, ValueError):
            return False

    @property
    def reason(self) -> str:
        return f"{self.column} is not {_interval(self.minimum, self.maximum)}"


@dataclass(frozen=True)
class Length(Filter, name="length"):
    """Texts by their number of characters without white space around; of several, one suffices."""

    minimum: int | None = None
    """The fewest that stay."""
    maximum: int | None = None
    """The most that stay."""

    def problems(self) -> Iterator[tuple[str, str]]:
        yield from _bounds(self.minimum, self.maximum)

    def keeps(self, value: Any) -> bool:
        sizes = [len(text.strip()) for text in _texts(value)] or [0]
        return any(_between(size, self.minimum, self.maximum) for size in sizes)

    @property
    def reason(self) -> str:
        return f"length of {self.column} is not {_interval(self.minimum, self.maximum)}"


@dataclass(frozen=True)
class Equals(Filter, name="equals"):
    """Values that are one of a list, compared as text."""

    values: tuple[str, ...] = ()
    """What stays."""

    def problems(self) -> Iterator[tuple[str, str]]:
        if not self.values:
            yield "values", "must name at least one value"

    def keeps(self, value: Any) -> bool:
        return any(text in self.values for text in _texts(value))

    @property
    def reason(self) -> str:
        return f"{self.column} is none of {', '.join(self.values)}"


@dataclass(frozen=True)
class Matches(Filter, name="matches"):
    """Texts in which a regular expression is found; of several, one suffices."""

    pattern: str = ""
    """In Python's syntax; `^(?!.*word)` keeps texts without a word."""

    def problems(self) -> Iterator[tuple[str, str]]:
        try:
            re.compile(self.pattern)
        except re.error as error:
            yield "pattern", f"not a regular expression ({error})"

    def keeps(self, value: Any) -> bool:
        return any(self._compiled.search(text) for text in _texts(value))

    @functools.cached_property
    def _compiled(self) -> re.Pattern[str]:
        return re.compile(self.pattern)

    @property
    def reason(self) -> str:
        return f"{self.column} does not match {self.pattern}"


def exclusion_reason(filters: tuple[Filter, ...], value: Callable[[str], Any]) -> str | None:
    """Why an example is left out, by the first filter that does; None if it stays.

    Args:
      filters: all must keep it.
      value: from the name of a column to the example's value.
    """
    for condition in filters:
        if not condition.keeps(value(condition.column)):
            return condition.reason
    return None


def _texts(value: Any) -> list[str]:
    if value is None:
        return []
    items = value if isinstance(value, list | tuple) else [value]
    return [i.decode(errors="replace") if isinstance(i, bytes) else str(i) for i in items]


def _between(value: float, minimum: float | None, maximum: float | None) -> bool:
    return (minimum is None or value >= minimum) and (maximum is None or value <= maximum)


def _interval(minimum: float | None, maximum: float | None) -> str:
    if minimum is None:
        return f"at most {maximum:g}"
    return f"at least {minimum:g}" if maximum is None else f"in {minimum:g}..{maximum:g}"


def _bounds(minimum: float | None, maximum: float | None) -> Iterator[tuple[str, str]]:
    if minimum is None and maximum is None:
        yield "minimum", "set minimum, maximum or both"
    elif minimum is not None and maximum is not None and maximum < minimum:
        yield "maximum", f"is below minimum: {maximum:g} < {minimum:g}"
