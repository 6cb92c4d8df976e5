"""Ctrl-C and SIGTERM as a request that the loop honours between two steps.

In a run of several processes, a signal to one of them stops all at the same step: the number of the
signal goes round over the devices beside each step, and is looked at when that step is done anyway.
So all learn of it after the same step, and no step waits.
"""

from __future__ import annotations

import signal
from collections.abc import Callable
from types import FrameType, TracebackType

from jaxtyping import Array

from vljax.parallel.processes.agreement import AllReduceMaximum


class Interrupted(Exception):
    """The run was asked to stop; everything is saved."""

    def __init__(self, signum: int, step: int) -> None:
        super().__init__(f"stopped by {signal.Signals(signum).name} at step {step}")
        self.signum, self.step = signum, step


class StopRequest:
    """While entered, the first SIGINT or SIGTERM is noted; a second one acts as it always does.

    Attributes:
      signum: the signal once all processes know of it, else None.
    """

    def __init__(
        self, announce: Callable[[str], None], shared: AllReduceMaximum | None = None
    ) -> None:
        """Nothing is noted before it is entered.

        Args:
          announce: is told in one line of the first signal.
          shared: goes round the processes; None where there is one.
        """
        self.signum: int | None = None
        self._own = 0
        self._announce, self._shared = announce, shared
        self._previous: dict[int, object] = {}

    def __enter__(self) -> StopRequest:
        for number in (signal.SIGINT, signal.SIGTERM):
            self._previous[number] = signal.signal(number, self._note)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._restore()

    def ask(self) -> Array | None:
        """Asks all processes, behind the steps started so far; the answer is for `take`.

        All processes call it equally often.
        """
        return None if self._shared is None else self._shared(self._own)

    def take(self, answer: Array | None) -> None:
        """Notes what `ask` found; waits for it."""
        if answer is not None and (number := int(answer)):
            self.signum = number

    def agreed(self) -> int | None:
        """The signal that stops all processes, asking them now; None to go on."""
        self.take(self.ask())
        return self.signum

    def _note(self, number: int, frame: FrameType | None) -> None:
        self._own = number
        if self._shared is None:
            self.signum = number
        self._restore()
        self._announce("stopping once this step is saved; again to stop at once")

    def _restore(self) -> None:
        while self._previous:
            number, handler = self._previous.popitem()
            signal.signal(number, handler)  # type: ignore[arg-type]
