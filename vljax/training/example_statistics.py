"""Statistics of the examples that a run has read: counts for the metrics, and rejected examples."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool

from vljax.config import UserError
from vljax.data.pipeline.batches import BatchStatistics
from vljax.data.records import counts_by_kind, exceeds_limit
from vljax.parallel.processes.agreement import broadcast, gather
from vljax.parallel.processes.start import is_first
from vljax.training import jsonl_log
from vljax.training.jsonl_log import JsonlLog, Row

FILE = "accounting.json"
"""Name of the file in a checkpoint that holds the counts up to its step."""

_LOG = "rejected"
_MAX_LISTED = 1_000_000
_WINDOW = 10_000
"""The share of rejected examples is of at least this many. Then counting starts anew, so that an
outage late in a long run is noticed too."""


@dataclass(frozen=True)
class RejectedRow:
    """A row of `rejected.jsonl`: the first time that an example could not be used."""

    step: int
    """The step that used its batch, as in the metrics: the first one is 1."""
    source: str
    """Name of its source."""
    index: int
    """Number of the example in the source."""
    kind: str
    """Class of the reason, see `ExampleError`."""
    reason: str
    """The reason in words."""


class ExampleStatistics:
    """Counts the examples of a run since step 0, over all processes and interruptions.

    Every process calls `record` for what it reads, and `flush` at the same steps as the others. The
    first process sums the counts and lists each rejected example once in `rejected.jsonl` (in
    `rejected/` on remote storage).

    >>> import tempfile, numpy as np
    >>> from vljax.data.pipeline.batches import BatchStatistics
    >>> statistics = ExampleStatistics(tempfile.mkdtemp(), start=0, limit=0.1)
    >>> valid = np.array([True, True, False, True])
    >>> statistics.record(BatchStatistics(0, valid, ~valid, ()), counted=np.ones(4, bool))
    >>> statistics.flush(1)["data/decoded"]
    3.0

    Args:
      workdir: local or remote.
      start: the step that the run starts or resumes at.
      limit: the share of rejected examples, 0..1, above which the run ends.
      saved: the content of `FILE` in the checkpoint that the run resumes from, if there is one.
    """

    def __init__(self, workdir: str, start: int, limit: float, saved: bytes | None = None) -> None:
        self._limit, self._workdir = limit, workdir
        self._sums: Counter[str] = Counter(json.loads(saved) if saved else {})
        self._pending: Counter[str] = Counter()  # of this process, since the last flush
        self._pending_rows: list[RejectedRow] = []
        self._listed: set[tuple[str, int]] = set()
        self._window: Counter[str] = Counter()
        self._first: Row | None = None
        self._flushed = start
        self._log: JsonlLog | None = None
        if is_first():
            self._log = JsonlLog(workdir, _LOG, start)
            rows = [row for row in read(workdir) if row["step"] <= start]
            self._listed |= {(row["source"], row["index"]) for row in rows}

    def record(self, batch: BatchStatistics, counted: Bool[np.ndarray, " rows"]) -> None:
        """Counts the examples of a batch, or of a part of it.

        Args:
          batch: what became of its examples.
          counted: the rows that this process counts, where several processes read the same rows.
        """
        self._pending["decoded"] += int(np.sum(batch.valid & counted))
        self._pending["repeated"] += int(np.sum(batch.repeated & counted))
        for example in batch.rejected:
            if not counted[example.row]:
                continue
            self._pending[f"rejected/{example.kind}"] += 1
            key = example.source, example.index
            if key not in self._listed and len(self._listed) < _MAX_LISTED:
                if not is_first():
                    self._listed.add(key)  # the first process does so in `_add`, for all processes
                row = RejectedRow(batch.step + 1, *key, example.kind, example.reason)
                self._pending_rows.append(row)

    def flush(self, step: int) -> dict[str, float]:
        """Sums the counts of all processes, which all call it at the same steps.

        Returns:
          The metrics `data/...` in the first process, nothing in the others.
        """
        if step != self._flushed:
            own = {"counts": self._pending, "rows": [asdict(row) for row in self._pending_rows]}
            self._pending, self._pending_rows, self._flushed = Counter(), [], step
            for text in gather("example statistics", json.dumps(own)):
                self._add(json.loads(text))
            if self._log is not None:
                self._log.flush()
        return self._metrics() if is_first() else {}

    def check(self, step: int) -> None:
        """Raises UserError in all processes if too many examples were rejected; after `flush`."""
        broadcast("rejected examples", lambda: self._check(step))

    def files(self) -> dict[str, bytes]:
        """The file of a checkpoint that holds the counts, as of the last `flush`."""
        return {FILE: (json.dumps(self._sums, sort_keys=True) + "\n").encode()}

    def _add(self, recorded: Mapping[str, Any]) -> None:
        self._sums.update(recorded["counts"])
        self._window.update(recorded["counts"])
        for row in recorded["rows"]:
            self._first = self._first or row
            key = row["source"], row["index"]
            if self._log is not None and key not in self._listed:
                self._listed.add(key)
                self._log.add(row)

    def _metrics(self) -> dict[str, float]:
        found = {"decoded": self._sums["decoded"], "repeated": self._sums["repeated"]}
        kinds = _rejected_by_kind(self._sums)
        found["rejected"] = sum(kinds.values())
        found |= {f"rejected/{kind}": count for kind, count in sorted(kinds.items())}
        return {f"data/{name}": float(count) for name, count in found.items()}

    def _check(self, step: int) -> str:
        kinds, limit = _rejected_by_kind(self._window), self._limit
        bad = sum(kinds.values())
        seen = bad + self._window["decoded"]
        if exceeds_limit(bad, seen, limit):
            raise UserError(self._summary(step, kinds, seen))
        if seen >= _WINDOW:
            self._window.clear()
        return ""

    def _summary(self, step: int, kinds: Mapping[str, int], seen: int) -> str:
        bad = sum(kinds.values())
        counts = counts_by_kind(kinds)
        first = ""
        if self._first:
            first = "; such as {source}/{index}: {reason}".format(**self._first)
        file = f"{_LOG}/" if self._log and self._log.in_parts else f"{_LOG}.jsonl"
        return (
            f"data.max_rejected_share: {bad:,} of the last {seen:,} examples up to step {step}"
            f" cannot be used, more than {self._limit:.3g} of them ({counts}{first}); they are"
            f" listed in {self._workdir}/{file}; earlier checkpoints are kept: repair the data and"
            " resume, or raise the limit"
        )


def _rejected_by_kind(counts: Mapping[str, int]) -> dict[str, int]:
    return {
        name.removeprefix("rejected/"): count
        for name, count in counts.items()
        if name.startswith("rejected/")
    }


def read(workdir: str) -> list[Row]:
    """The rejected examples of a workdir, each once; see `RejectedRow`."""
    return jsonl_log.read(workdir, _LOG)
