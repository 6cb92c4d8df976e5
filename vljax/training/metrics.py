"""`metrics.jsonl`: an object a line with `step` and flat `name: value`."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from typing import Any, Protocol

from etils import epath

Row = dict[str, Any]

_FILE = "metrics.jsonl"
_PARTS = "metrics"
_RESUMED = "resumed"


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
    """Writes rows to a workdir.

    A local file is appended to. Object stores cannot append: there, rows are kept until `flush` and
    written as a part of their own, `metrics/NUMBER.jsonl`; `read` merges the parts.
    """

    def __init__(self, workdir: str, start: int, *, parts: bool | None = None) -> None:
        """Begins or goes on.

        Args:
          workdir: local or remote.
          start: the step that the run stands at. What an interrupted attempt wrote past it is
            superseded by a row that says so.
          parts: the form; by default parts where the workdir is a URL.
        """
        self._workdir = epath.Path(workdir)
        self._parts = "://" in workdir if parts is None else parts
        self._lines: list[str] = []
        texts = _texts(workdir)
        self._number = len(texts)
        if texts and not texts[-1].endswith("\n"):
            self._lines.append("\n")  # a crash cut the last line off
        if texts:
            self.write(start, {_RESUMED: 1.0})

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Adds a row. A value that is not finite becomes null, since JSON knows no such numbers."""
        clean = {k: v if math.isfinite(v) else None for k, v in values.items()}
        self._lines.append(json.dumps({"step": step, **clean}) + "\n")
        if not self._parts:
            self.flush()

    def flush(self) -> None:
        """Makes all rows durable."""
        if not self._lines:
            return
        text, self._lines = "".join(self._lines), []
        if self._parts:
            folder = self._workdir / _PARTS
            folder.mkdir(parents=True, exist_ok=True)
            (folder / f"{self._number:08d}.jsonl").write_text(text)
            self._number += 1
        else:
            with open(self._workdir / _FILE, "a") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())


def read(workdir: str) -> list[Row]:
    """All rows of a workdir, oldest first, without those that a resumed run superseded.

    A line that was cut off by a crash is passed over.
    """
    rows: list[Row] = []
    for line in "".join(_texts(workdir)).splitlines():
        try:
            row = json.loads(line)
        except ValueError:
            continue
        if row.pop(_RESUMED, None):
            rows = [earlier for earlier in rows if earlier["step"] <= row["step"]]
        else:
            rows.append(row)
    return rows


def _texts(workdir: str) -> list[str]:
    """The content of the files that hold rows, oldest first."""
    root = epath.Path(workdir)
    files = [root / _FILE, *sorted((root / _PARTS).glob("*.jsonl"))]
    return [file.read_text() for file in files if file.exists()]
