"""`metrics.jsonl`: one JSON object a line with `step` and flat `name: value`."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Protocol, runtime_checkable

from vljax.training import jsonl_log
from vljax.training.jsonl_log import JsonlLog, Row

__all__ = ["TIMING_METRICS", "MetricsWriter", "NullWriter", "Row", "Writer", "read"]

_LOG = "metrics"

TIMING_METRICS = frozenset({"examples_per_second", "input/wait"})
"""Metrics that depend on the machine: they differ between otherwise equal runs."""


@runtime_checkable
class Writer(Protocol):
    """Writes rows of metrics."""

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Adds a row."""
        ...

    def flush(self) -> None:
        """Makes all rows durable."""
        ...

    def close(self) -> None:
        """Makes all rows durable; none is written later."""
        ...


class NullWriter:
    """Writes nothing: the writer of all processes but the first."""

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Does nothing."""

    def flush(self) -> None:
        """Does nothing."""

    def close(self) -> None:
        """Does nothing."""


class MetricsWriter:
    """Writes rows of metrics to the workdir.

    >>> import tempfile
    >>> workdir = tempfile.mkdtemp()
    >>> MetricsWriter(workdir, start=0).write(1, {"loss": 0.5, "gradient_norm": float("inf")})
    >>> read(workdir)
    [{'step': 1, 'loss': 0.5, 'gradient_norm': None}]
    """

    def __init__(self, workdir: str, start: int, *, parts: bool | None = None) -> None:
        """Opens the log for a run that starts or resumes at a step; `parts` as in `JsonlLog`."""
        self._log = JsonlLog(workdir, _LOG, start, parts=parts)

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Adds a row. A value that is not finite becomes null, as JSON has no such numbers."""
        clean = {k: v if math.isfinite(v) else None for k, v in values.items()}
        self._log.add({"step": step, **clean})
        if not self._log.in_parts:
            self.flush()

    def flush(self) -> None:
        """Makes all rows durable."""
        self._log.flush()

    def close(self) -> None:
        """Makes all rows durable."""
        self.flush()


def read(workdir: str) -> list[Row]:
    """The rows of metrics of a workdir, as `jsonl_log.read` gives them."""
    return jsonl_log.read(workdir, _LOG)
