"""What a foreign format can say, and the error where it cannot."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

from vljax.config import UserError, suggest

ACCEPTABLE = {
    "text-cleaning": "texts are cleaned otherwise",
    "resize": "images are resized or cropped a little otherwise",
}
"""Losses that a person may accept, by the names that `--accept` takes."""


@dataclass
class Losses:
    """Collects what is lost on the way and was accepted."""

    target: str
    """The foreign format, for messages."""
    accepted: Collection[str] = ()
    notes: list[str] = field(default_factory=list)

    def refuse(self, path: str, value: Any, can: str) -> None:
        """Raises UserError: a field of the recipe has no counterpart."""
        raise UserError(f"{self.target} cannot express {path} = {value!r}; it has {can}")

    def require(self, wanted: Mapping[str, Any], part: Any, path: str) -> None:
        """Raises UserError for the first field of a part of the recipe that is not as wanted."""
        for name, value in wanted.items():
            found = getattr(part, name)
            if found != value:
                self.refuse(f"{path}.{name}", found, repr(value))

    def lose(self, what: str, message: str) -> None:
        """Notes a loss that was accepted.

        Args:
          what: one of `ACCEPTABLE`.
          message: what cannot be expressed, and how it is there.

        Raises:
          UserError: if it was not accepted.
        """
        if what not in self.accepted:
            raise UserError(
                f"{self.target} cannot express {message}; --accept {what} exports it nevertheless"
            )
        self.notes.append(f"{message} ({ACCEPTABLE[what]})")


class Fields:
    """A foreign configuration; its fields are read by type, and errors name them."""

    def __init__(self, data: Any, source: str, path: str = "") -> None:
        if not isinstance(data, Mapping):
            raise UserError(f"{source}: {path or 'its content'} is no mapping")
        self._data, self._source, self._path = data, source, path

    def __contains__(self, name: str) -> bool:
        return self._data.get(name) is not None

    def get(self, name: str, default: Any) -> Any:
        """A value of the type of the default, which stands for one that is missing.

        Raises:
          UserError: if it has another type.
        """
        value = self._data.get(name)
        if value is None:
            return default
        kinds = (int, float) if isinstance(default, float) else (type(default),)
        if not isinstance(value, kinds) or isinstance(value, bool) != isinstance(default, bool):
            raise UserError(f"{self._where(name)}: {value!r} is no {type(default).__name__}")
        return float(value) if isinstance(default, float) else value

    def raw(self, name: str, default: Any = None) -> Any:
        """A value of any type."""
        return self._data.get(name, default)

    def part(self, name: str) -> Fields:
        """A mapping inside; an empty one where it is missing."""
        return Fields(self._data.get(name) or {}, self._source, self._inner(name))

    def side(self, name: str, default: int) -> int:
        """The side of a square that may be written as one number or as two."""
        value = self._data.get(name)
        if isinstance(value, list | tuple) and len(set(value)) == 1:
            value = value[0]
        if value is None:
            return default
        if not isinstance(value, int) or isinstance(value, bool):
            raise UserError(f"{self._where(name)}: {value!r} is no side of a square in pixels")
        return value

    def one_of(self, name: str, options: Mapping[str, Any], default: str) -> Any:
        """What a word stands for. Raises UserError for one that vljax has nothing for."""
        word = self.get(name, default)
        if word not in options:
            self.fail(name, f"unknown value {word!r}{suggest(word, options)}")
        return options[word]

    def must(self, name: str, value: Any, default: Any = None) -> None:
        """Raises UserError if a field is not as vljax has it."""
        found = self._data.get(name, default)
        if found != value:
            self.fail(name, f"is {found!r}; vljax has only {value!r}")

    def fail(self, name: str, message: str) -> None:
        """Raises UserError about a field."""
        raise UserError(f"{self._where(name)}: {message}")

    def _inner(self, name: str) -> str:
        return f"{self._path}.{name}" if self._path else name

    def _where(self, name: str) -> str:
        return f"{self._source}: {self._inner(name)}"
