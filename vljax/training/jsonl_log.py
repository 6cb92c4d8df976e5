"""JSON objects, one a line, that a run adds to its workdir, local or remote."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from typing import Any

from etils import epath

Row = dict[str, Any]

_RESUMED = "resumed"


class RowFile:
    """Adds rows to a file of the workdir.

    A local file is appended to. Object stores cannot append: there, rows are written as a part of
    their own, `NAME/NUMBER.jsonl`; `read` merges the parts.
    """

    def __init__(self, workdir: str, name: str, start: int, *, parts: bool | None = None) -> None:
        """Begins or goes on.

        Args:
          workdir: local or remote.
          name: of the file, without its ending.
          start: the step that the run stands at. What an interrupted attempt wrote past it is
            superseded by a row that says so.
          parts: the form; by default parts where the workdir is a URL.
        """
        self._workdir, self._name = epath.Path(workdir), name
        self.in_parts = "://" in workdir if parts is None else parts
        self._lines: list[str] = []
        texts = _texts(workdir, name)
        self._number = len(texts)
        if texts and not texts[-1].endswith("\n"):
            self._lines.append("\n")  # a crash cut the last line off
        if texts:
            self.add({"step": start, _RESUMED: 1.0})
        if not self.in_parts:
            self.flush()

    def add(self, row: Mapping[str, Any]) -> None:
        """Adds a row, which has a `step`."""
        self._lines.append(json.dumps(row) + "\n")

    def flush(self) -> None:
        """Makes all rows durable."""
        if not self._lines:
            return
        text, self._lines = "".join(self._lines), []
        if self.in_parts:
            folder = self._workdir / self._name
            folder.mkdir(parents=True, exist_ok=True)
            (folder / f"{self._number:08d}.jsonl").write_text(text)
            self._number += 1
        else:
            with open(self._workdir / f"{self._name}.jsonl", "a") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())


def read(workdir: str, name: str) -> list[Row]:
    """All rows of a file, oldest first, without those that a resumed run superseded.

    A line that was cut off by a crash is passed over.
    """
    rows: list[Row] = []
    for line in "".join(_texts(workdir, name)).splitlines():
        try:
            row = json.loads(line)
        except ValueError:
            continue
        if row.pop(_RESUMED, None):
            rows = [earlier for earlier in rows if earlier["step"] <= row["step"]]
        else:
            rows.append(row)
    return rows


def _texts(workdir: str, name: str) -> list[str]:
    """The content of the files that hold rows, oldest first."""
    root = epath.Path(workdir)
    files = [root / f"{name}.jsonl", *sorted((root / name).glob("*.jsonl"))]
    return [file.read_text() for file in files if file.exists()]
