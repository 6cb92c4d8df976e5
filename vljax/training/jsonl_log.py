"""Append-only logs of JSON objects, one a line, in a workdir, local or remote."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from typing import Any

from etils import epath

Row = dict[str, Any]

_RESUMED = "resumed"


class JsonlLog:
    """Appends rows to a file of the workdir.

    A local file is appended to. Object stores cannot append. There, each `flush` writes its rows to
    a new part `NAME/NUMBER.jsonl`, and `read` joins the parts.

    >>> import tempfile
    >>> workdir = tempfile.mkdtemp()
    >>> log = JsonlLog(workdir, "metrics", start=0)
    >>> log.add({"step": 1, "loss": 0.5})
    >>> log.flush()
    >>> read(workdir, "metrics")
    [{'step': 1, 'loss': 0.5}]
    """

    def __init__(self, workdir: str, name: str, start: int, *, parts: bool | None = None) -> None:
        """Opens the log for a run that starts or resumes at a step.

        Args:
          workdir: local or remote.
          name: of the file, without its ending.
          start: the step of the run. A row marks that it resumed there, which supersedes what an
            interrupted attempt wrote past this step.
          parts: whether to write parts; by default where the workdir is a URL.
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
    """The rows of a log, oldest first, without those that a resumed run superseded.

    A line that a crash cut off is skipped.
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
    """The contents of the files of a log, oldest first."""
    root = epath.Path(workdir)
    files = [root / f"{name}.jsonl", *sorted((root / name).glob("*.jsonl"))]
    return [file.read_text() for file in files if file.exists()]
