"""Progress of long work on standard error."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Literal

from rich.console import Console
from rich.markup import escape
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
    """Progress bars, one a stage, on terminals; elsewhere a line now and then.

    Args:
      what: is worked on; begins the lines.
      unit: of what is counted.
    """

    def __init__(self, what: str, unit: Unit = "number"):
        self._what = what
        self._console = Console(stderr=True)
        columns: tuple[ProgressColumn, ...] = (MofNCompleteColumn(), TimeRemainingColumn())
        if unit == "bytes":
            columns = (DownloadColumn(), TransferSpeedColumn())
        columns = (TextColumn("{task.description}"), BarColumn(), *columns)
        self._bars = Bars(*columns, console=self._console, transient=True)

    def __enter__(self) -> Display:
        if self._console.is_terminal:
            self._bars.start()
        return self

    def __exit__(self, *error: object) -> None:
        if self._console.is_terminal:
            self._bars.stop()

    def stage(self, name: str, line: str) -> Progress:
        """What shows one stage.

        Args:
          name: before the bar.
          line: where there is no bar, with places for what is done and what there is to do.
        """
        if not self._console.is_terminal:
            return log_progress(self._what, line)
        task = self._bars.add_task(escape(name), total=None, visible=False)
        return lambda done, all: self._bars.update(task, completed=done, total=all, visible=True)


@contextlib.contextmanager
def shown(what: str, line: str, unit: Unit = "number") -> Iterator[Progress]:
    """The display of a single stage, under the name of what is worked on.

    Args:
      what: see `Display`.
      line: see `Display.stage`.
      unit: see `Display`.
    """
    with Display(what, unit) as display:
        yield display.stage(what, line)
