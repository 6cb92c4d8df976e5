"""What was counted when a source was opened or indexed."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

logger = logging.getLogger(__name__)

# How many of the examples left out for one reason are named.
_NAMED = 5
_SECONDS_BETWEEN_LINES = 10

# Of this process: source, reason and count.
_said: set[tuple[str, str, int]] = set()

Progress = Callable[[int, int], None]
"""Called with what is done and what there is to do."""

INDEXED = "indexed {:,} of {:,} shards"


def log_progress(name: str, what: str = INDEXED) -> Progress:
    """Says a line now and then, where no bar can be drawn.

    Args:
      name: of the source.
      what: the words, with places for what is done and what there is to do.
    """
    last = time.monotonic()

    def progress(done: int, total: int) -> None:
        nonlocal last
        if time.monotonic() - last >= _SECONDS_BETWEEN_LINES:
            last = time.monotonic()
            logger.warning("%s: %s", name, what.format(done, total))

    return progress


@dataclass
class SourceCounts:
    """Counts of a source.

    Attributes:
      files: files that hold it (shards).
      examples: those that are left.
      fields: by the name of a field, how many of these have it.
      left_out: by reason, how many examples or members of archives are not used.
      named: by reason, the first of them.
    """

    files: int = 0
    examples: int = 0
    fields: dict[str, int] = field(default_factory=dict)
    left_out: dict[str, int] = field(default_factory=dict)
    named: dict[str, list[str]] = field(default_factory=dict)

    def leave_out(self, reason: str, name: str) -> None:
        """Counts an example that is not used."""
        self.left_out[reason] = self.left_out.get(reason, 0) + 1
        names = self.named.setdefault(reason, [])
        if len(names) < _NAMED:
            names.append(name)

    def count(self, fields: Iterable[str]) -> None:
        """Counts an example that has these fields."""
        self.examples += 1
        for name in fields:
            self.fields[name] = self.fields.get(name, 0) + 1

    def add(self, other: SourceCounts) -> None:
        """Adds the counts of another part of the same source."""
        self.files += other.files
        self.examples += other.examples
        for name, count in other.fields.items():
            self.fields[name] = self.fields.get(name, 0) + count
        for reason, count in other.left_out.items():
            self.left_out[reason] = self.left_out.get(reason, 0) + count
            names = [*self.named.get(reason, []), *other.named.get(reason, [])]
            self.named[reason] = names[:_NAMED]

    def log(self, source: str) -> None:
        """Says what was left out, a line for each reason."""
        for reason, count in self.left_out.items():
            if (source, reason, count) in _said:  # a run opens the same source several times
                continue
            _said.add((source, reason, count))
            names = ", ".join(self.named[reason])
            more = ", ..." if count > len(self.named[reason]) else ""
            logger.warning("%s: left out %d: %s (%s%s)", source, count, reason, names, more)

    def as_dict(self) -> dict[str, Any]:
        """As JSON data."""
        return {
            "files": self.files,
            "examples": self.examples,
            "fields": self.fields,
            "left_out": self.left_out,
            "named": self.named,
        }
