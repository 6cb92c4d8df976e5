"""The training loop."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Array

from vljax.config import UserError
from vljax.optim import Hyper
from vljax.parallel.processes.agreement import all_reduce_maximum, barrier
from vljax.training.checkpoint import Checkpointer
from vljax.training.example_statistics import ExampleStatistics
from vljax.training.interrupt import Interrupted, StopRequest
from vljax.training.metrics import Writer
from vljax.training.progress import ProgressDisplay
from vljax.training.state import TrainState
from vljax.training.step import Metrics

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
class Guard:
    """Watches an evaluator of what the model could do before the run, such as zero-shot accuracy.

    >>> guard = Guard("old", ("old/accuracy",), 2.0)
    >>> guard.add({"old/accuracy": 0.80})
    >>> guard.problem()
    >>> guard.add({"old/accuracy": 0.75})
    >>> guard.problem()
    'guard: old/accuracy is 0.7500, 5.00 points below its first value 0.8000 (guard_drop 2)'
    """

    evaluator: str
    """Its name."""
    metrics: tuple[str, ...]
    """The metrics that must not fall; fractions, of which larger is better."""
    drop: float | None
    """Percentage points that each may fall below its first value; None for any number."""
    first: dict[str, float] = field(default_factory=dict)
    """The first value of each metric of the evaluator."""
    last: dict[str, float] = field(default_factory=dict)
    """The last value of each metric."""

    def add(self, values: Mapping[str, float]) -> None:
        """Takes the values of an evaluation."""
        self.last.update(values)
        for name, value in values.items():
            if math.isfinite(value):
                self.first.setdefault(name, value)

    def problem(self) -> str | None:
        """What is wrong if a metric fell too far below its first value; None if all is well."""
        if self.drop is None:
            return None
        for name in self.metrics:
            if name in self.last and name in self.first:
                points = 100 * (self.first[name] - self.last[name])
                # Rounding aside; a metric that is no longer a number has fallen too.
                if not points <= self.drop + 1e-9:
                    return (
                        f"guard: {name} is {self.last[name]:.4f}, {points:.2f} points below its"
                        f" first value {self.first[name]:.4f} (guard_drop {self.drop:g})"
                    )
        return None


@dataclass(frozen=True)
class Loop:
    """Trains: batches, steps, metrics, evaluations, checkpoints, signals.

    All processes of a run go through it alike. What they do next depends only on the step and on
    values that are the same in all of them.
    """

    steps: int
    step: Callable[[TrainState, Any, Hyper], tuple[TrainState, Metrics]]
    hyper: Hyper
    batches: Callable[[int], Iterator[Any]]
    """Batches on the devices from a step on. They are recorded in `statistics`."""
    statistics: ExampleStatistics
    evaluators: Mapping[str, Evaluate]
    final_evaluators: Mapping[str, Evaluate]
    """Run once, after the last step."""
    cadence: Cadence
    max_skipped: int
    """The run ends after that many skipped steps in a row."""
    checkpointer: Checkpointer
    files: Callable[[int], Mapping[str, bytes]]
    """The files of a checkpoint of a step, beside the arrays and the statistics."""
    writer: Writer
    display: ProgressDisplay
    evaluate_first: bool = False
    """Whether to run the evaluators before the first step too."""
    shown: Mapping[str, Sequence[str]] = field(default_factory=dict)
    """The metrics of each evaluator that are printed."""
    last: dict[str, float] = field(default_factory=dict)
    """The last value of each metric, for the change that is printed."""
    guard: Guard | None = None
    """Ends the run, once its state is saved, if the guard's metrics fall too far."""

    def run(self, state: TrainState) -> TrainState:
        """Trains from the step of `state` to the last one, or to that at which the guard stops it.

        Raises:
          Interrupted: after SIGINT, SIGTERM or SIGHUP, once the state is saved.
          UserError: if a checkpoint cannot be written, too many steps in a row were skipped, or too
            many examples were rejected.
        """
        step = int(state.step)
        batches = self.batches(step)
        with StopRequest(self.display.say, all_reduce_maximum()) as stop:
            pending = PendingSteps(stop, self.max_skipped, self.writer, self.display.say)
            if step:
                # An interrupted attempt may have saved this step without evaluating it.
                self._evaluate_if_due(step, state, stop)
                self._leave_if_asked(step, state, stop, pending)
            elif self.evaluate_first:
                self._evaluate(step, state, self.evaluators, stop)
                self._leave_if_asked(step, state, stop, pending)
            # Invariant: here, `state` has consumed exactly the batches before `step`.
            while step < self.steps:
                if self._guard_stops(step, state, pending):
                    return state
                with self.display.waiting_for_input(pending.done):
                    batch = next(batches)
                with jax.transfer_guard("disallow"):
                    state, metrics = self.step(state, batch, self.hyper)
                step += 1
                pending.add(step, metrics)
                self.display.advance(step)
                if self._due(self.cadence.log, step) or step == 1:
                    self._log(step, metrics)
                evaluates = self._due(self.cadence.evaluate, step)
                saves = self._due(self.cadence.checkpoint, step)
                if evaluates or saves:
                    pending.drain()  # an error of these steps must come before they are saved
                self._evaluate_if_due(step, state, stop)
                if saves:
                    self._save(step, state)
                self._leave_if_asked(step, state, stop, pending)
            self._evaluate(step, state, self.final_evaluators, stop)
            self.display.activity("waiting for the last checkpoint")
            self._leave_if_asked(step, state, stop, pending)
            self.checkpointer.wait()
            self.display.activity("")
        return state

    def _due(self, every: int, step: int) -> bool:
        return step % every == 0 or step == self.steps

    def _log(self, step: int, metrics: Metrics) -> None:
        values = {name: float(value) for name, value in jax.device_get(metrics).items()}
        values["examples_per_second"], values["input/wait"] = self.display.metrics(step, values)
        values |= self.statistics.flush(step)
        self.writer.write(step, values)
        self.statistics.check(step)

    def _evaluate_if_due(self, step: int, state: TrainState, stop: StopRequest) -> None:
        if self._due(self.cadence.evaluate, step):
            self._evaluate(step, state, self.evaluators, stop)

    def _evaluate(
        self, step: int, state: TrainState, evaluators: Mapping[str, Evaluate], stop: StopRequest
    ) -> None:
        """Runs evaluators one by one, until a signal comes.

        The remaining ones run when the run is resumed, so that no row of metrics is missing.
        """
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
                shown, guard = self.shown.get(name, ()), self.guard
                if guard is not None and name == guard.evaluator:
                    self.display.evaluated(
                        step, name, values, guard.first, shown, " since the start"
                    )
                    guard.add(values)
                else:
                    self.display.evaluated(step, name, values, self.last, shown)
                self.last.update(values)
            self.display.activity("")
        stop.agreed()
        self.writer.flush()

    def _rescue(self, step: int, state: TrainState, error: Exception) -> None:
        """Saves after an evaluator failed, so that its error costs no training step."""
        try:
            barrier("saving after an evaluator failed", _RESCUE_SECONDS)
        except UserError:
            raise error from None  # it failed in this process alone, and saving takes all of them
        self._save(step, state)
        self.checkpointer.wait()

    def _leave_if_asked(
        self, step: int, state: TrainState, stop: StopRequest, pending: PendingSteps
    ) -> None:
        if stop.signum is not None:
            pending.drain()  # an error of these steps must come before they are saved
            # Saved here and not by the handler: a signal may come at any line, and what is
            # reported as saved must be saved.
            self._save(step, state)
            self.checkpointer.wait()
            raise Interrupted(stop.signum, step)

    def _guard_stops(self, step: int, state: TrainState, pending: PendingSteps) -> bool:
        """Whether the guard ends the run at this step; if so, the state is saved."""
        problem = None if self.guard is None else self.guard.problem()
        if problem is None:
            return False
        pending.drain()
        self._save(step, state)
        self.checkpointer.wait()
        self.display.say(
            f"stopped at step {step} of {self.steps}, and saved: {problem}. To go on, raise"
            " guard_drop, or set it to None"
        )
        return True

    def _save(self, step: int, state: TrainState) -> None:
        self.writer.flush()
        self.statistics.flush(step)
        files = {**self.files(step), **self.statistics.files()}
        self.checkpointer.save(step, state, files)


# --- Steps that were started and have not finished ------------------------------------------------

MAX_PENDING = 2
"""The devices run behind the loop. Without a limit, their batches would pile up in memory."""


class _Pending(NamedTuple):
    step: int
    metrics: Metrics
    stop: Array | None


class PendingSteps:
    """The steps that the devices still compute.

    Metrics are looked at once their step has finished, so nothing waits for the devices. All
    processes of a run see the same values after the same step.
    """

    def __init__(
        self, stop: StopRequest, max_skipped: int, writer: Writer, say: Callable[[str], None]
    ) -> None:
        self._stop, self._max_skipped = stop, max_skipped
        self._writer, self._say = writer, say
        self._pending: deque[_Pending] = deque()
        self._spikes = SpikeDetector()

    def add(self, step: int, metrics: Metrics) -> None:
        """Adds a step that was just started; waits for the oldest one if there are too many."""
        self._pending.append(_Pending(step, metrics, self._stop.poll()))
        self._finish(MAX_PENDING)

    def done(self) -> bool:
        """Whether the devices have finished all of them."""
        return all(each.metrics["loss"].is_ready() for each in self._pending)  # type: ignore[attr-defined]

    def drain(self) -> None:
        """Waits for all of them."""
        self._finish(0)

    def _finish(self, left: int) -> None:
        """Raises UserError if too many steps in a row were skipped."""
        while len(self._pending) > left:
            step, metrics, stop = self._pending.popleft()
            loss, skipped = jax.device_get((metrics["loss"], metrics["skipped_in_a_row"]))
            self._stop.receive(stop)
            if skipped >= self._max_skipped:
                raise UserError(_too_many_skipped(step, int(skipped), metrics))
            if (above := self._spikes.deviations(float(loss))) is not None:
                self._writer.write(step, {"loss_spike": above})
                self._say(
                    f"step {step}: loss {loss:.4f} is {above:.0f} deviations above the median of"
                    " the last steps; its batch is reproducible from recipe, seed and step"
                )


def _too_many_skipped(step: int, skipped: int, metrics: Metrics) -> str:
    names = ("loss", "gradient_norm", "valid_examples")
    values = ", ".join(f"{name} {float(metrics[name]):g}" for name in names if name in metrics)
    return (
        f"max_skipped_steps: {skipped} steps in a row were skipped up to step {step} ({values}),"
        " because gradients were not finite or no example was valid; earlier checkpoints are kept:"
        " check the data, or start again with a lower optim.learning_rate or compute in float32"
    )


# --- Loss spikes ----------------------------------------------------------------------------------

WINDOW = 128
"""Losses that the next one is compared with, at most."""
MIN_LOSSES = 32
"""Losses that are needed for a comparison."""
BOUND = 8.0
"""A spike is that many robust standard deviations above the median."""

_MAD_TO_DEVIATION = 1.4826
"""Median absolute deviation to standard deviation, for a normal distribution."""
_FLOOR = 1e-3
"""Least deviation relative to the median, since the losses of a plateau hardly differ."""


class SpikeDetector:
    """Compares each loss with the median and the spread of the last ones.

    Both are robust: a spike moves neither, so it does not hide the next one. A loss that is not
    finite is ignored; its step changes nothing and is counted as skipped.

    >>> detector = SpikeDetector()
    >>> usual = [detector.deviations(2.0 + 0.1 * (-1) ** i) for i in range(40)]
    >>> round(detector.deviations(4.0), 1)
    13.5
    """

    def __init__(self) -> None:
        self._last: deque[float] = deque(maxlen=WINDOW)

    def deviations(self, loss: float) -> float | None:
        """The deviations by which the next loss exceeds the median if it is a spike, else None."""
        if not math.isfinite(loss):
            return None
        before = np.asarray(self._last)
        self._last.append(loss)
        if len(before) < MIN_LOSSES:
            return None
        median = np.median(before)
        spread = _MAD_TO_DEVIATION * np.median(np.abs(before - median))
        above = float((loss - median) / max(spread, _FLOOR * abs(median), np.finfo(float).tiny))
        return above if above > BOUND else None
