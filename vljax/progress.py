"""Progress of long work on standard error."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bars

from vljax.data.accounting import Progress, log_progress


class Display:
    """Progress bars, one a stage, on terminals; elsewhere a line now and then.

    Args:
      source: whose name begins the lines.
    """

    def __init__(self, source: str):
        self._source = source
        self._console = Console(stderr=True)
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
        remaining = TimeRemainingColumn()
        self._bars = Bars(*columns, remaining, console=self._console, transient=True)

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
            return log_progress(self._source, line)
        task = self._bars.add_task(escape(name), total=None, visible=False)
        return lambda done, all: self._bars.update(task, completed=done, total=all, visible=True)


@contextlib.contextmanager
def shown(name: str, line: str) -> Iterator[Progress]:
    """The display of a single stage, under the name of the source that is worked on.

    Args:
      name: of the source.
      line: see `Display.stage`.
    """
    with Display(name) as display:
        yield display.stage(name, line)
