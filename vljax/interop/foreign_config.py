"""JSON configurations of foreign models, read field by field with errors that name the field."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vljax.config import UserError, suggest
from vljax.files import parse_json, refuse_lfs_pointer


class ForeignConfig:
    """A foreign configuration whose fields are checked as they are read.

    >>> config = ForeignConfig({"vision": {"width": 768}}, "config.json").part("vision")
    >>> config.get("width", 512), config.get("layers", 12)
    (768, 12)
    >>> config.must("width", 1024)
    Traceback (most recent call last):
    vljax.config.UserError: config.json: vision.width: is 768; vljax has only 1024
    """

    def __init__(self, data: Any, source: str, path: str = "") -> None:
        if not isinstance(data, Mapping):
            raise UserError(f"{source}: {path or 'its content'} must be a mapping")
        self._data, self._source, self._path = data, source, path

    def __contains__(self, name: str) -> bool:
        return self._data.get(name) is not None

    def get(self, name: str, default: Any) -> Any:
        """A value of the default's type; the default if the field is missing or null.

        Raises:
          UserError: if the value has another type.
        """
        value = self._data.get(name)
        if value is None:
            return default
        kinds = (int, float) if isinstance(default, float) else (type(default),)
        if not isinstance(value, kinds) or isinstance(value, bool) != isinstance(default, bool):
            raise UserError(f"{self._where(name)}: {value!r} is not of type {_type_name(default)}")
        return self.as_float(name, value) if isinstance(default, float) else value

    def as_float(self, name: str, value: float) -> float:
        """A number of a field as a float. Raises UserError if it is too large for one."""
        try:
            return float(value)
        except OverflowError:
            raise UserError(f"{self._where(name)}: the number is too large") from None

    def raw(self, name: str, default: Any = None) -> Any:
        """A value of any type."""
        return self._data.get(name, default)

    def part(self, name: str, override: str | None = None) -> ForeignConfig:
        """A nested configuration; an empty one if it is missing.

        Args:
          name: its field.
          override: a field that is read in place of `name` unless it is missing or null.
        """
        if override is not None and override in self:
            name = override
        return ForeignConfig(self._data.get(name) or {}, self._source, self._inner(name))

    def differing(self, other: ForeignConfig) -> list[str]:
        """The fields that both configurations state, with different values."""
        both = self._data.keys() & other._data.keys()
        return sorted(name for name in both if self._data[name] != other._data[name])

    def side(self, name: str, default: int) -> int:
        """The side of a square, which may be stored as one number or as two equal ones."""
        value = self._data.get(name)
        if isinstance(value, list | tuple) and value and all(v == value[0] for v in value):
            value = value[0]
        if value is None:
            return default
        if not isinstance(value, int) or isinstance(value, bool):
            raise UserError(f"{self._where(name)}: {value!r} is not the side of a square in pixels")
        return value

    def one_of(self, name: str, options: Mapping[str, Any], default: str) -> Any:
        """The option that a word selects. Raises UserError if vljax has no such option."""
        word = self.get(name, default)
        if word not in options:
            self.fail(name, f"unknown value {word!r}{suggest(word, options)}")
        return options[word]

    def must(self, name: str, value: Any, default: Any = None) -> None:
        """Raises UserError if a field differs from the only value that vljax implements."""
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


def _type_name(value: Any) -> str:
    return type(value).__name__


def read_json(file: Path) -> Any:
    """The content of a JSON file. Raises UserError if it is missing or is not JSON."""
    refuse_lfs_pointer(file)
    try:
        return parse_json(file.read_bytes())
    except FileNotFoundError:
        raise UserError(f"{file}: no such file") from None
    except ValueError as error:
        raise UserError(f"{file}: not valid JSON ({error})") from error


def to_json(data: Any) -> bytes:
    """Data as the content of a JSON file."""
    return (json.dumps(data, indent=2, ensure_ascii=False) + "\n").encode()
