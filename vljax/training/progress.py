"""The display of a run's progress: a bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import math
import posixpath
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import TracebackType
from typing import NamedTuple

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn

_SHOWN_WAIT = 0.02
"""The smallest fraction of input wait that is shown."""


class Speed(NamedTuple):
    """The speed of the last steps; NaN if no step was timed."""

    examples_per_second: float
    input_wait: float
    """Fraction of the time, 0..1, that the loop waited for batches while the devices had run out of
    work. The devices were idle for at most that long."""


class ProgressDisplay:
    """Shows step, loss, examples/s, input wait, time left, and activities such as evaluations.

    Off a terminal, each call of `metrics` prints a line, such as
    `step 11/40  loss 1.2500  40 examples/s  0:06 left`.
    """

    def __init__(self, start: int, steps: int, global_batch: int, console: Console) -> None:
        self._start, self._steps, self._batch, self.console = start, steps, global_batch, console
        self._mark, self._marked_step = time.monotonic(), start
        self._compiling = self._waited = 0.0
        self._activity_since: float | None = None
        columns = (
            SpinnerColumn(),
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=None),
            MofNCompleteColumn(),
            TextColumn("{task.fields[numbers]}", markup=False),
        )
        # Off a terminal, a live display would print a line for every refresh.
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
            # The first call returns once the step is compiled. That time is not part of the speed.
            now = time.monotonic()
            self._compiling = now - self._mark
            self._mark, self._marked_step, self._waited = now, step, 0.0
        self._bar.update(self._task, completed=step)

    @contextmanager
    def waiting_for_input(self, idle: Callable[[], bool]) -> Iterator[None]:
        """To be entered while the loop only waits for a batch.

        Args:
          idle: whether the devices have no work left. A wait that ends while they still work costs
            no time. Any other wait counts in full.
        """
        began = time.monotonic()
        yield
        if idle():
            self._waited += time.monotonic() - began

    def metrics(self, step: int, values: Mapping[str, float]) -> Speed:
        """Shows the metrics of a step, and returns the speed of the steps since the last call.

        Compiling and activities do not count. After the first step alone, the speed is NaN.
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
        """Shows what is done beside the steps, such as an evaluation; "" when it is over."""
        self._bar.update(self._task, description=what or "training")
        if what and self._bar.disable:
            self.say(f"{what} ...")
        now = time.monotonic()
        if self._activity_since is not None:
            self._mark += now - self._activity_since  # do not count it in the speed
        self._activity_since = now if what else None

    def evaluated(
        self,
        step: int,
        name: str,
        values: Mapping[str, float],
        before: Mapping[str, float],
        shown: Sequence[str] = (),
        since: str = "",
    ) -> None:
        """Prints a line with the metrics of an evaluation, and their change.

        Args:
          step: when it was made.
          name: of the evaluator.
          values: its metrics.
          before: those of the last evaluation; may lack some, or all.
          shown: names of the metrics to print; the first three if none of them is there.
          since: what `before` is of, if it is not the last evaluation; follows each change.
        """
        common = posixpath.commonpath([posixpath.dirname(metric) for metric in values])
        parts = []
        for metric in [m for m in shown if m in values] or [*values][:3]:
            change = values[metric] - before.get(metric, math.nan)
            told = f" ({change:+.4f}{since})" if math.isfinite(change) else ""
            parts.append(f"{metric.removeprefix(common).lstrip('/')} {values[metric]:.4f}{told}")
        self.say(f"step {step}  {name}: {'  '.join(parts)}")

    def say(self, line: str) -> None:
        """Prints a line above the bar."""
        self.console.print(line, highlight=False, markup=False, emoji=False, soft_wrap=True)


def duration(seconds: float) -> str:
    """Seconds as text.

    >>> duration(3723), duration(123.4)
    ('1:02:03', '2:03')
    """
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
