"""Progress of long commands on standard error: bars on a terminal, log lines elsewhere."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Literal

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    MofNCompleteColumn,
    ProgressColumn,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)
from rich.progress import Progress as Bars

from vljax.data.records import Progress, log_progress

Unit = Literal["number", "bytes"]


class Display:
    """Progress bars, one per stage, on a terminal; elsewhere a log line from time to time.

    Args:
      what: name of the command or of the thing that it works on; begins the log lines.
      unit: unit of the counts.
    """

    def __init__(self, what: str, unit: Unit = "number"):
        self._what = what
        self._console = Console(stderr=True, emoji=False)
        columns: tuple[ProgressColumn, ...] = (MofNCompleteColumn(), TimeRemainingColumn())
        if unit == "bytes":
            columns = (DownloadColumn(), TransferSpeedColumn())
        columns = (TextColumn("{task.description}", markup=False), BarColumn(), *columns)
        self._bars = Bars(*columns, console=self._console, transient=True)

    def __enter__(self) -> Display:
        if self._console.is_terminal:
            self._bars.start()
        return self

    def __exit__(self, *error: object) -> None:
        if self._console.is_terminal:
            self._bars.stop()

    def stage(self, name: str, line: str) -> Progress:
        """A function that shows the progress of one stage: `progress(done, total)`.

        Args:
          name: label of the bar.
          line: format of the log line, with fields for the done and the total count.
        """
        if not self._console.is_terminal:
            return log_progress(self._what, line)
        task = self._bars.add_task(name, total=None, visible=False)
        return lambda done, all: self._bars.update(task, completed=done, total=all, visible=True)


@contextlib.contextmanager
def shown(what: str, line: str, unit: Unit = "number") -> Iterator[Progress]:
    """Shows the progress of work with a single stage: yields `progress(done, total)`.

    Args:
      what: see `Display`.
      line: see `Display.stage`.
      unit: see `Display`.
    """
    with Display(what, unit) as display:
        yield display.stage(what, line)
