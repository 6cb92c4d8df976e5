"""The one training loop."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Array

from vljax.config import UserError
from vljax.optim import Hyper
from vljax.parallel.processes.agreement import all_reduce_maximum, barrier
from vljax.training.accounting import Accounting
from vljax.training.checkpoint import Checkpointer
from vljax.training.gradients import Metrics
from vljax.training.interrupt import Interrupted, StopRequest
from vljax.training.metrics import Writer
from vljax.training.progress import ProgressDisplay
from vljax.training.state import TrainState

Values = dict[str, float]
Evaluate = Callable[[TrainState], Values]

_RESCUE_SECONDS = 30.0


@dataclass(frozen=True)
class Cadence:
    """How often things happen, in steps; all of them also happen at the end."""

    log: int
    evaluate: int
    checkpoint: int


@dataclass(frozen=True)
class Loop:
    """What a run does, apart from how it is computed.

    All processes of a run go through it alike. What they do next depends on the step, and on values
    that are the same in all of them.
    """

    steps: int
    step: Callable[[TrainState, Any, Hyper], tuple[TrainState, Metrics]]
    hyper: Hyper
    batches: Callable[[int], Iterator[Any]]
    """Device batches from a step on; `accounting` is told of each."""
    accounting: Accounting
    evaluators: Mapping[str, Evaluate]
    final_evaluators: Mapping[str, Evaluate]
    cadence: Cadence
    max_skipped: int
    """So many skipped steps in a row end the run."""
    checkpointer: Checkpointer
    files: Callable[[int], Mapping[str, bytes]]
    """What a checkpoint of a step holds beside the arrays."""
    writer: Writer
    display: ProgressDisplay

    def run(self, state: TrainState) -> TrainState:
        """Trains from where `state` stands to the last step.

        Invariant: at the top of the loop, `state` has consumed exactly the batches before `step`.

        Raises:
          Interrupted: after SIGINT or SIGTERM, once the state is saved.
          UserError: if a checkpoint cannot be written, too many steps in a row were skipped, or too
            many examples cannot be used.
        """
        step = int(state.step)
        batches = self.batches(step)
        with StopRequest(self.display.say, all_reduce_maximum()) as stop:
            in_flight = InFlight(stop, self.max_skipped, self.writer, self.display.say)
            if step:
                # An interrupted attempt may have saved this step without evaluating it.
                self._evaluate_if_due(step, state, stop)
                self._leave_if_asked(step, state, stop, in_flight)
            while step < self.steps:
                with self.display.waiting_for_input(in_flight.done):
                    batch = next(batches)
                with jax.transfer_guard("disallow"):
                    state, metrics = self.step(state, batch, self.hyper)
                step += 1
                in_flight.add(step, metrics)
                self.display.advance(step)
                if self._due(self.cadence.log, step) or step == 1:
                    self._log(step, metrics)
                if self._looks_back(step):
                    in_flight.drain()
                self._evaluate_if_due(step, state, stop)
                if self._due(self.cadence.checkpoint, step):
                    self._save(step, state)
                self._leave_if_asked(step, state, stop, in_flight)
            self._evaluate(step, state, self.final_evaluators, stop)
            self.display.activity("waiting for the last checkpoint")
            self._leave_if_asked(step, state, stop, in_flight)
            self.checkpointer.wait()
            self.display.activity("")
        return state

    def _due(self, every: int, step: int) -> bool:
        return step % every == 0 or step == self.steps

    def _looks_back(self, step: int) -> bool:
        """Whether the state is measured or saved, which what ends the run has to come before."""
        return self._due(self.cadence.evaluate, step) or self._due(self.cadence.checkpoint, step)

    def _log(self, step: int, metrics: Metrics) -> None:
        values = {name: float(value) for name, value in jax.device_get(metrics).items()}
        values["examples_per_second"], values["input/wait"] = self.display.metrics(step, values)
        values |= self.accounting.settle(step)
        self.writer.write(step, values)
        self.accounting.check(step)

    def _evaluate_if_due(self, step: int, state: TrainState, stop: StopRequest) -> None:
        if self._due(self.cadence.evaluate, step):
            self._evaluate(step, state, self.evaluators, stop)

    def _evaluate(
        self, step: int, state: TrainState, evaluators: Mapping[str, Evaluate], stop: StopRequest
    ) -> None:
        """Runs evaluators one by one; what is left when a signal comes is done on resuming."""
        for name, evaluate in evaluators.items():
            if stop.agreed() is not None:
                return
            self.display.activity(f"evaluating {name}")
            try:
                values = evaluate(state)
            except Exception as error:
                self._rescue(step, state, error)
                raise
            if values:
                self.writer.write(step, values)
            self.display.activity("")
        stop.agreed()
        self.writer.flush()

    def _rescue(self, step: int, state: TrainState, error: Exception) -> None:
        """Saves after an evaluator failed: the steps since the last checkpoint are not to blame."""
        try:
            barrier("saving after an evaluator failed", _RESCUE_SECONDS)
        except UserError:
            raise error from None  # it failed here alone, and saving takes all processes
        self._save(step, state)
        self.checkpointer.wait()

    def _leave_if_asked(
        self, step: int, state: TrainState, stop: StopRequest, in_flight: InFlight
    ) -> None:
        if stop.signum is not None:
            in_flight.drain()  # what ends the run comes before saving
            # Here and not before: a signal may come at any line, and what is said must be saved.
            self._save(step, state)
            self.checkpointer.wait()
            raise Interrupted(stop.signum, step)

    def _save(self, step: int, state: TrainState) -> None:
        self.writer.flush()
        self.accounting.settle(step)
        files = {**self.files(step), **self.accounting.files()}
        self.checkpointer.save(step, state, files)


# Steps that were started and are not waited for yet, and what is looked at once they are done

LIMIT = 2
"""Without one, batches would pile up in memory: steps run behind the loop."""


class _Started(NamedTuple):
    step: int
    metrics: Metrics
    stop: Array | None


class InFlight:
    """The steps that run behind the loop.

    What is looked at is that of finished steps, so that nothing waits for the devices; all
    processes of a run see the same values after the same step.
    """

    def __init__(
        self, stop: StopRequest, max_skipped: int, writer: Writer, say: Callable[[str], None]
    ) -> None:
        """`max_skipped`: so many steps in a row without an update end the run."""
        self._stop, self._max_skipped = stop, max_skipped
        self._writer, self._say = writer, say
        self._started: deque[_Started] = deque()
        self._spikes = SpikeDetector()

    def add(self, step: int, metrics: Metrics) -> None:
        """Notes a step that was just started; waits for one where there are too many."""
        self._started.append(_Started(step, metrics, self._stop.ask()))
        self._settle(LIMIT)

    def done(self) -> bool:
        """Whether the devices are done with all of them."""
        return all(each.metrics["loss"].is_ready() for each in self._started)  # type: ignore[attr-defined]

    def drain(self) -> None:
        """Waits for all of them."""
        self._settle(0)

    def _settle(self, left: int) -> None:
        """Raises UserError where too many steps in a row were skipped."""
        while len(self._started) > left:
            step, metrics, stop = self._started.popleft()
            loss, skipped = jax.device_get((metrics["loss"], metrics["skipped_in_a_row"]))
            self._stop.take(stop)
            if skipped >= self._max_skipped:
                raise UserError(_too_many(step, int(skipped), metrics))
            if (above := self._spikes.deviations(float(loss))) is not None:
                self._writer.write(step, {"loss_spike": above})
                self._say(
                    f"step {step}: loss {loss:.4f} is {above:.0f} deviations above the median of"
                    " the last; the batch follows from recipe, seed and step and can be made again"
                )


def _too_many(step: int, skipped: int, metrics: Metrics) -> str:
    names = ("loss", "gradient_norm", "valid_examples")
    values = ", ".join(f"{name} {float(metrics[name]):g}" for name in names if name in metrics)
    return (
        f"max_skipped_steps: {skipped} steps in a row were skipped up to step {step} ({values}),"
        " for want of finite gradients or of valid examples; the checkpoints before stay: look at"
        " the data, or start anew with a lower optim.learning_rate or compute in float32"
    )


# --- Losses that stand out from those before them -------------------------------------------------

WINDOW = 128
LEAST = 32
"""Losses that must be known before one can be said to stand out."""
BOUND = 8.0
"""Robust standard deviations above the median."""

_MAD_TO_DEVIATION = 1.4826
"""Median absolute deviation to standard deviation, for a normal distribution."""
_FLOOR = 1e-3
"""Least deviation relative to the median, since the losses of a plateau hardly differ."""


class SpikeDetector:
    """Compares each loss with the median and the spread of the last ones.

    Both are robust: neither a spike nor the next ones behind it move them. A loss that is not
    finite is passed over; its step changes nothing and is counted elsewhere.
    """

    def __init__(self) -> None:
        self._last: deque[float] = deque(maxlen=WINDOW)

    def deviations(self, loss: float) -> float | None:
        """How many deviations a loss lies above the median where it is a spike, else None.

        Args:
          loss: of the next step.
        """
        if not math.isfinite(loss):
            return None
        before = np.asarray(self._last)
        self._last.append(loss)
        if len(before) < LEAST:
            return None
        median = np.median(before)
        spread = _MAD_TO_DEVIATION * np.median(np.abs(before - median))
        above = float((loss - median) / max(spread, _FLOOR * abs(median), np.finfo(float).tiny))
        return above if above > BOUND else None
