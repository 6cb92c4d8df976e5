"""Progress of long work on standard error."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from vljax.data import accounting


@contextlib.contextmanager
def shown(name: str, did: str, what: str) -> Iterator[accounting.Progress]:
    """A bar on terminals, elsewhere a line now and then.

    Args:
      name: of what is worked on.
      did: what is done to it, for lines: "indexed".
      what: what is counted, for lines: "shards".
    """
    console = Console(stderr=True)
    if not console.is_terminal:
        yield accounting.log_progress(name, did, what)
        return
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    with Progress(*columns, TimeRemainingColumn(), console=console, transient=True) as bar:
        task = bar.add_task(escape(name), total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)
