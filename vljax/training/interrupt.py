"""Handling of Ctrl-C, SIGTERM and SIGHUP: the loop saves and stops between two steps.

In a run of several processes, a signal to one of them stops all at the same step. Each process puts
the number of its signal into an all-reduce maximum that runs on the devices behind each step. The
result is read when that step is done anyway. So all processes learn of the signal after the same
step, and no step waits for it.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from types import FrameType, TracebackType

from jaxtyping import Array

from vljax.parallel.processes.agreement import AllReduceMaximum


class Interrupted(Exception):
    """The run was stopped by a signal; everything is saved."""

    def __init__(self, signum: int, step: int) -> None:
        super().__init__(f"stopped by {signal.Signals(signum).name} at step {step}")
        self.signum, self.step = signum, step


class StopRequest:
    """While entered, holds the first SIGINT, SIGTERM or SIGHUP; a second signal acts as usual.

    SIGHUP comes when the terminal closes. What would be written to the terminal then goes nowhere,
    so that the run can save. Under `nohup`, which ignores the signal, the run goes on.

    Attributes:
      signum: the signal once all processes know of it, else None.
    """

    def __init__(
        self, announce: Callable[[str], None], maximum: AllReduceMaximum | None = None
    ) -> None:
        """Signals are handled from `__enter__` on.

        Args:
          announce: gets a line of text on the first signal.
          maximum: over the processes; None if this process runs alone.
        """
        self.signum: int | None = None
        self._own = 0
        self._announce, self._maximum = announce, maximum
        self._previous: dict[int, object] = {}
        self._terminals: list[int] = []

    def __enter__(self) -> StopRequest:
        # A terminal that is closed no longer counts as one.
        self._terminals = [descriptor for descriptor in (1, 2) if os.isatty(descriptor)]
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            if number == signal.SIGHUP and signal.getsignal(number) == signal.SIG_IGN:
                continue
            self._previous[number] = signal.signal(number, self._handle)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._restore()

    def poll(self) -> Array | None:
        """Starts to ask all processes, behind the steps started so far; see `receive`.

        All processes call it equally often.
        """
        return None if self._maximum is None else self._maximum(self._own)

    def receive(self, answer: Array | None) -> None:
        """Waits for the result of a `poll`, and sets `signum` by it."""
        if answer is not None and (number := int(answer)):
            self.signum = number

    def agreed(self) -> int | None:
        """The signal that stops all processes, after asking them now; None to continue."""
        self.receive(self.poll())
        return self.signum

    def _handle(self, number: int, frame: FrameType | None) -> None:
        self._own = number
        if self._maximum is None:
            self.signum = number
        self._restore()
        if number == signal.SIGHUP:
            self._leave_terminals()
        self._announce("stopping once this step is saved; again to stop at once")

    def _leave_terminals(self) -> None:
        """Writing to a closed terminal would raise an error in the loop."""
        nowhere = os.open(os.devnull, os.O_WRONLY)
        for descriptor in self._terminals:
            os.dup2(nowhere, descriptor)
        os.close(nowhere)

    def _restore(self) -> None:
        while self._previous:
            number, handler = self._previous.popitem()
            signal.signal(number, handler)  # type: ignore[arg-type]
