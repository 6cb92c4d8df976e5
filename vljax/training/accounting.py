"""What became of the examples: counts for the metrics, and which could not be used."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool

from vljax.config import UserError
from vljax.data.pipeline.batches import BatchStatistics
from vljax.parallel.processes.agreement import broadcast, gather
from vljax.parallel.processes.start import is_first
from vljax.training import jsonl_log
from vljax.training.jsonl_log import Row, RowFile

FILE = "accounting.json"
"""In a checkpoint, the counts up to its step."""

_NAME = "rejected"
_MOST_LISTED = 1_000_000
_WINDOW = 10_000
"""Examples after which the share of bad ones is counted anew, so that a late outage shows too."""


@dataclass(frozen=True)
class Listed:
    """A row of `rejected.jsonl`: the first time that an example could not be used."""

    step: int
    """After which it counts, like the metrics of its batch."""
    source: str
    """Name of its source."""
    index: int
    """In the source."""
    kind: str
    """Class of the reason, see `ExampleError`."""
    reason: str
    """For people."""


class Accounting:
    """The examples that a run has taken since step 0, over all processes and interruptions.

    All processes `take` what they read and `settle` at the same steps. The first one adds up,
    lists bad examples in `rejected.jsonl` (on remote storage `rejected/`), each once, and knows
    the sums.

    Args:
      workdir: local or remote.
      start: the step that the run stands at.
      limit: the share of bad examples, 0..1, that ends the run.
      saved: the content of `FILE` in the checkpoint that the run goes on from, if there is one.
    """

    def __init__(self, workdir: str, start: int, limit: float, saved: bytes | None = None) -> None:
        self._limit, self._workdir = limit, workdir
        self._sums: Counter[str] = Counter(json.loads(saved) if saved else {})
        self._own: Counter[str] = Counter()
        self._own_rows: list[Listed] = []
        self._listed: set[tuple[str, int]] = set()
        self._window: Counter[str] = Counter()
        self._first: Row | None = None
        self._settled = start
        self._file: RowFile | None = None
        if is_first():
            self._file = RowFile(workdir, _NAME, start)
            rows = [row for row in read(workdir) if row["step"] <= start]
            self._listed |= {(row["source"], row["index"]) for row in rows}

    def take(self, account: BatchStatistics, counted: Bool[np.ndarray, " rows"]) -> None:
        """Adds a batch, or a part of it.

        Args:
          account: what became of its examples.
          counted: which of the rows this process counts, where several read the same.
        """
        self._own["decoded"] += int(np.sum(account.valid & counted))
        self._own["repeated"] += int(np.sum(account.repeated & counted))
        for example in account.rejected:
            if not counted[example.row]:
                continue
            self._own[f"rejected/{example.kind}"] += 1
            key = example.source, example.index
            if key not in self._listed and len(self._listed) < _MOST_LISTED:
                if not is_first():
                    self._listed.add(key)  # the first process does so below, with those of others
                self._own_rows.append(Listed(account.step + 1, *key, example.kind, example.reason))

    def settle(self, step: int) -> dict[str, float]:
        """Adds up what all processes have taken; each calls it at the same steps.

        Returns:
          The metrics `data/...` in the first process, nothing in the others.
        """
        if step != self._settled:
            own = {"counts": self._own, "rows": [asdict(row) for row in self._own_rows]}
            self._own, self._own_rows, self._settled = Counter(), [], step
            for text in gather("accounting", json.dumps(own)):
                self._add(json.loads(text))
            if self._file is not None:
                self._file.flush()
        return self._metrics() if is_first() else {}

    def check(self, step: int) -> None:
        """Raises UserError in all processes if too many examples are bad; after `settle`."""
        broadcast("bad examples", lambda: self._refuse(step))

    def files(self) -> dict[str, bytes]:
        """What a checkpoint holds of the counts, as they were settled."""
        return {FILE: (json.dumps(self._sums, sort_keys=True) + "\n").encode()}

    def _add(self, taken: Mapping[str, Any]) -> None:
        self._sums.update(taken["counts"])
        self._window.update(taken["counts"])
        for row in taken["rows"]:
            self._first = self._first or row
            key = row["source"], row["index"]
            if self._file is not None and key not in self._listed:
                self._listed.add(key)
                self._file.add(row)

    def _metrics(self) -> dict[str, float]:
        found = {"decoded": self._sums["decoded"], "repeated": self._sums["repeated"]}
        kinds = _kinds(self._sums)
        found["rejected"] = sum(kinds.values())
        found |= {f"rejected/{kind}": count for kind, count in sorted(kinds.items())}
        return {f"data/{name}": float(count) for name, count in found.items()}

    def _refuse(self, step: int) -> str:
        kinds, limit = _kinds(self._window), self._limit
        bad = sum(kinds.values())
        seen = bad + self._window["decoded"]
        # Three standard deviations, so that a few bad ones among the first end no run.
        if bad > limit * seen + 3 * math.sqrt(limit * (1 - limit) * seen):
            raise UserError(self._summary(step, kinds, seen))
        if seen >= _WINDOW:
            self._window.clear()
        return ""

    @property
    def _file_name(self) -> str:
        return f"{_NAME}/" if self._file and self._file.in_parts else f"{_NAME}.jsonl"

    def _summary(self, step: int, kinds: Mapping[str, int], seen: int) -> str:
        bad = sum(kinds.values())
        counts = ", ".join(
            f"{kind} {count:,}"
            for kind, count in sorted(kinds.items(), key=lambda i: (-i[1], i[0]))
        )
        first = ""
        if self._first:
            first = "; such as {source}/{index}: {reason}".format(**self._first)
        return (
            f"data.max_rejected_share: {bad:,} of the last {seen:,} examples up to step {step}"
            f" cannot be used, more than {self._limit:.3g} of them ({counts}{first}); they are"
            f" listed in {self._workdir}/{self._file_name}; the checkpoints before stay: mend the"
            " data and go on, or raise the limit"
        )


def _kinds(counts: Mapping[str, int]) -> dict[str, int]:
    """How many examples were rejected, by the kind of reason."""
    return {
        name.removeprefix("rejected/"): count
        for name, count in counts.items()
        if name.startswith("rejected/")
    }


def read(workdir: str) -> list[Row]:
    """The bad examples of a workdir, each once; see `Listed`."""
    return jsonl_log.read(workdir, _NAME)
