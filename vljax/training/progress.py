"""What a person sees of a run: a progress bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from collections.abc import Mapping
from types import TracebackType

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeRemainingColumn,
)


class ProgressDisplay:
    """Step, loss, examples/s, time left, and what is going on beside the steps."""

    def __init__(self, start: int, steps: int, global_batch: int, console: Console) -> None:
        self._steps, self._batch, self.console = steps, global_batch, console
        self._mark, self._marked_step = time.monotonic(), start
        self._left: float | None = None
        columns = (
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[numbers]}"),
            TimeRemainingColumn(),
        )
        # A live display that is no terminal would print every refresh as a line of its own.
        self._bar = Progress(*columns, console=console, disable=not console.is_terminal)
        self._task = self._bar.add_task("compiling", total=steps, completed=start, numbers="")

    def __enter__(self) -> ProgressDisplay:
        self._bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._bar.stop()

    def advance(self, step: int) -> None:
        """After each step."""
        self._bar.update(self._task, completed=step)

    def metrics(self, step: int, values: Mapping[str, float]) -> float:
        """Shows the metrics of a step; returns examples/s since the last call."""
        now = time.monotonic()
        seconds, done = now - self._mark, step - self._marked_step
        speed = done * self._batch / seconds if seconds > 0 else 0.0
        self._mark, self._marked_step = now, step
        numbers = f"loss {values['loss']:.4f}  {speed:,.0f} examples/s"
        self._bar.update(self._task, numbers=numbers, description="training")
        if self._bar.disable:
            left = (self._steps - step) * self._batch / speed if speed else 0.0
            self.say(f"step {step}/{self._steps}  {numbers}  {duration(left)} left")
        return speed

    def activity(self, what: str) -> None:
        """Names what is done beside the steps, such as an evaluation; "" when it is over."""
        self._bar.update(self._task, description=what or "training")
        if what and self._bar.disable:
            self.say(f"{what} ...")
        if not what:
            self._mark = time.monotonic()  # so that it does not count against the speed

    def say(self, line: str) -> None:
        """A line above the bar."""
        self.console.print(line, highlight=False, markup=False, soft_wrap=True)


def duration(seconds: float) -> str:
    """Seconds as `1:02:03` or `2:03`."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
