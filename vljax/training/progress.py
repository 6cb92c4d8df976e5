"""What a person sees of a run: a progress bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from types import TracebackType
from typing import NamedTuple

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn

_SHOWN_WAIT = 0.02
"""Less is not worth the room on a line."""


class Speed(NamedTuple):
    """How fast the last steps were; NaN where there is nothing to tell it from."""

    examples_per_second: float
    input_wait: float
    """The share of the time, 0..1, that the loop waited for batches which the devices waited for in
    the end; they waited for no longer than that."""


class ProgressDisplay:
    """Step, loss, examples/s, input wait, time left, and what is going on beside the steps."""

    def __init__(self, start: int, steps: int, global_batch: int, console: Console) -> None:
        self._start, self._steps, self._batch, self.console = start, steps, global_batch, console
        self._mark, self._marked_step = time.monotonic(), start
        self._compiling = self._waited = 0.0
        self._activity_since: float | None = None
        columns = (
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(bar_width=None),
            MofNCompleteColumn(),
            TextColumn("{task.fields[numbers]}"),
        )
        # A live display that is no terminal would print every refresh as a line of its own.
        disable = not console.is_terminal
        self._bar = Progress(*columns, console=console, disable=disable, expand=True)
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
        if step == self._start + 1:
            # The first call returns once the step is compiled, which is no part of the speed.
            now = time.monotonic()
            self._compiling = now - self._mark
            self._mark, self._marked_step, self._waited = now, step, 0.0
        self._bar.update(self._task, completed=step)

    @contextmanager
    def waiting_for_input(self, idle: Callable[[], bool]) -> Iterator[None]:
        """While the loop does nothing but wait for a batch.

        Args:
          idle: whether the devices have nothing left to do. A wait that ends while they are still
            at work costs no time; of one that does not, all counts.
        """
        began = time.monotonic()
        yield
        if idle():
            self._waited += time.monotonic() - began

    def metrics(self, step: int, values: Mapping[str, float]) -> Speed:
        """Shows the metrics of a step; returns the speed of the steps since the last call.

        Neither compiling nor activities count. After the first step alone, the speed is NaN.
        """
        now = time.monotonic()
        seconds, done = now - self._mark, step - self._marked_step
        timed = done > 0 and seconds > 0
        speed = done * self._batch / seconds if timed else math.nan
        wait = self._waited / seconds if timed else math.nan
        self._mark, self._marked_step, self._waited = now, step, 0.0
        numbers = f"loss {values['loss']:.4f}"
        if step == self._start + 1:
            numbers += f"  (compiled in {self._compiling:.0f} s)"
        elif speed > 0:
            left = (self._steps - step) * self._batch / speed
            waited = f"  input wait {wait:.0%}" if wait >= _SHOWN_WAIT else ""
            numbers += f"  {speed:,.0f} examples/s{waited}  {duration(left)} left"
        self._bar.update(self._task, numbers=numbers, description="training")
        if self._bar.disable:
            self.say(f"step {step}/{self._steps}  {numbers}")
        return Speed(speed, wait)

    def activity(self, what: str) -> None:
        """Names what is done beside the steps, such as an evaluation; "" when it is over."""
        self._bar.update(self._task, description=what or "training")
        if what and self._bar.disable:
            self.say(f"{what} ...")
        now = time.monotonic()
        if self._activity_since is not None:
            self._mark += now - self._activity_since  # so that it does not count against the speed
        self._activity_since = now if what else None

    def say(self, line: str) -> None:
        """A line above the bar."""
        self.console.print(line, highlight=False, markup=False, soft_wrap=True)


def duration(seconds: float) -> str:
    """Seconds as `1:02:03` or `2:03`."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
