"""Filters leave examples out when a source is opened or its index is built.

A filter looks at the value of one column. Examples are numbered after filtering, so that an epoch
is a permutation of the examples that pass all filters.
"""

from __future__ import annotations

import abc
import functools
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from vljax.config import Component
from vljax.data.records import is_nan

_SHOWN = 20


@dataclass(frozen=True)
class Filter(Component, abc.ABC):
    """Keeps or leaves out an example by the value of a column."""

    column: str
    """Name of the column in the source."""

    @abc.abstractmethod
    def keeps(self, value: Any) -> bool:
        """Whether an example with this value is kept; None stands for no value."""

    @property
    @abc.abstractmethod
    def reason(self) -> str:
        """Why an example is left out, for logs and reports."""


@dataclass(frozen=True)
class Range(Filter, name="range"):
    """Keeps numbers between two bounds, such as a width in pixels; leaves out other values.

    >>> [Range("width", minimum=64).keeps(value) for value in (100, "100", 32, None)]
    [True, True, False, False]
    """

    minimum: float | None = None
    """Smallest number to keep."""
    maximum: float | None = None
    """Largest number to keep."""

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
    """Keeps texts by their number of characters, not counting white space at both ends.

    Of several texts, one within the bounds is enough.

    >>> [Length("txt", minimum=3).keeps(value) for value in ("a dog", " a ", None)]
    [True, False, False]
    """

    minimum: int | None = None
    """Fewest characters to keep."""
    maximum: int | None = None
    """Most characters to keep."""

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
    """Keeps values that are one of a list, compared as text.

    >>> [Equals("status", values=("success",)).keeps(value) for value in ("success", "failed")]
    [True, False]
    """

    values: tuple[str, ...] = ()
    """Values to keep."""

    def problems(self) -> Iterator[tuple[str, str]]:
        if not self.values:
            yield "values", "must name at least one value"

    def keeps(self, value: Any) -> bool:
        return any(text in self.values for text in _texts(value))

    @property
    def reason(self) -> str:
        more = f", ... ({len(self.values)} values)" if len(self.values) > _SHOWN else ""
        return f"{self.column} is not one of {', '.join(self.values[:_SHOWN])}{more}"


@dataclass(frozen=True)
class Matches(Filter, name="matches"):
    """Keeps texts in which a regular expression is found; of several texts, one is enough.

    >>> [Matches("txt", pattern=r"\\bdog").keeps(value) for value in ("two dogs", "hotdog")]
    [True, False]
    """

    pattern: str = ""
    """Regular expression in Python's syntax; `^(?!.*word)` keeps texts without a word."""

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
    """The reason of the first filter that leaves an example out; None if all keep it.

    Args:
      filters: the filters, in order.
      value: a function from the name of a column to the value of the example.
    """
    for condition in filters:
        if not condition.keeps(value(condition.column)):
            return condition.reason
    return None


def _texts(value: Any) -> list[str]:
    items = value if isinstance(value, list | tuple) else [value]
    known = [i for i in items if i is not None and not is_nan(i)]
    return [i.decode(errors="replace") if isinstance(i, bytes) else str(i) for i in known]


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
