"""`metrics.jsonl`: an object a line with `step` and flat `name: value`."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Protocol

from vljax.training import jsonl_log
from vljax.training.jsonl_log import Row, RowFile

__all__ = ["TIMED", "MetricsWriter", "NoWriter", "Row", "Writer", "read"]

_NAME = "metrics"

TIMED = frozenset({"examples_per_second", "input/wait"})
"""Metrics that tell of the machine: they differ between runs that are otherwise the same."""


class Writer(Protocol):
    """Where rows of metrics go."""

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Adds a row."""
        ...

    def flush(self) -> None:
        """Makes all rows durable."""
        ...


class NoWriter:
    """Of all processes but the first."""

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Nothing."""

    def flush(self) -> None:
        """Nothing."""


class MetricsWriter:
    """Writes rows to a workdir; see `RowFile`."""

    def __init__(self, workdir: str, start: int, *, parts: bool | None = None) -> None:
        """Begins or goes on at a step; `parts` as in `RowFile`."""
        self._file = RowFile(workdir, _NAME, start, parts=parts)

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Adds a row. A value that is not finite becomes null, since JSON knows no such numbers."""
        clean = {k: v if math.isfinite(v) else None for k, v in values.items()}
        self._file.add({"step": step, **clean})
        if not self._file.in_parts:
            self.flush()

    def flush(self) -> None:
        """Makes all rows durable."""
        self._file.flush()


def read(workdir: str) -> list[Row]:
    """All rows of a workdir, oldest first, without those that a resumed run superseded.

    A line that was cut off by a crash is passed over.
    """
    return jsonl_log.read(workdir, _NAME)
