"""`metrics.jsonl`: an object a line with `step` and flat `name: value`."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

from etils import epath

Row = dict[str, Any]

_FILE = "metrics.jsonl"
_PARTS = "metrics"


class MetricsWriter:
    """Writes rows to a workdir.

    A local file is appended to. Object stores cannot append: there, rows are kept until `flush` and
    written as a part of their own, `metrics/STEP.jsonl`; `read` merges the parts.
    """

    def __init__(self, workdir: str, *, parts: bool | None = None) -> None:
        """`parts` chooses the form; by default parts where the workdir is a URL."""
        self._workdir = epath.Path(workdir)
        self._parts = "://" in workdir if parts is None else parts
        self._rows: list[str] = []
        self._last_step = 0

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Adds a row. A value that is not finite becomes null, since JSON knows no such numbers."""
        clean = {k: v if math.isfinite(v) else None for k, v in values.items()}
        self._rows.append(json.dumps({"step": step, **clean}) + "\n")
        self._last_step = step
        if not self._parts:
            self.flush()

    def flush(self) -> None:
        """Makes all rows durable."""
        if not self._rows:
            return
        text, self._rows = "".join(self._rows), []
        if self._parts:
            folder = self._workdir / _PARTS
            folder.mkdir(parents=True, exist_ok=True)
            (folder / f"{self._last_step:012d}.jsonl").write_text(text)
        else:
            with open(self._workdir / _FILE, "a") as file:
                file.write(text)


def read(workdir: str) -> list[Row]:
    """All rows of a workdir, oldest first.

    After a resume at step k, the rows past k that an interrupted attempt had written are superseded:
    they are left out. A last line that was cut off by a crash is passed over.
    """
    root = epath.Path(workdir)
    texts = [file.read_text() for file in sorted((root / _PARTS).glob("*.jsonl"))]
    if (root / _FILE).exists():
        texts.append((root / _FILE).read_text())
    rows: list[Row] = []
    for line in "".join(texts).splitlines():
        try:
            row = json.loads(line)
        except ValueError:
            continue
        while rows and rows[-1]["step"] > row["step"]:
            rows.pop()
        rows.append(row)
    return rows
