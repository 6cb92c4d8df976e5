"""The one training loop."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import jax

from vljax.training.checkpoint import Checkpointer
from vljax.training.interrupt import Interrupted, StopRequest
from vljax.training.metrics import MetricsWriter
from vljax.training.optim import Hyper
from vljax.training.progress import ProgressDisplay
from vljax.training.state import TrainState
from vljax.training.step import Metrics

Values = dict[str, float]
IN_FLIGHT = 2
Evaluate = Callable[[TrainState], Values]


@dataclass(frozen=True)
class Cadence:
    """How often things happen, in steps; all of them also happen at the end."""

    log: int
    evaluate: int
    checkpoint: int


@dataclass(frozen=True)
class Loop:
    """What a run does, apart from how it is computed."""

    steps: int
    step: Callable[[TrainState, Any, Hyper], tuple[TrainState, Metrics]]
    hyper: Hyper
    batches: Callable[[int], Iterator[Any]]
    """Device batches from a step on."""
    evaluators: Mapping[str, Evaluate]
    final_evaluators: Mapping[str, Evaluate]
    cadence: Cadence
    checkpointer: Checkpointer
    files: Callable[[int], Mapping[str, bytes]]
    """What a checkpoint of a step holds beside the arrays."""
    writer: MetricsWriter
    display: ProgressDisplay

    def run(self, state: TrainState) -> TrainState:
        """Trains from where `state` stands to the last step.

        Invariant: at the top of the loop, `state` has consumed exactly the batches before `step`.

        Raises:
          Interrupted: after SIGINT or SIGTERM, once the state is saved.
          UserError: if a checkpoint cannot be written.
        """
        step = int(state.step)
        batches = self.batches(step)
        in_flight: deque[Metrics] = deque()
        with StopRequest(self.display.say) as stop:
            if step:
                # An interrupted attempt may have saved this step without evaluating it.
                self._evaluate_if_due(step, state, stop)
            while step < self.steps:
                batch = next(batches)
                with jax.transfer_guard("disallow"):
                    state, metrics = self.step(state, batch, self.hyper)
                step += 1
                # Steps run behind the loop; without a limit, batches would pile up in memory.
                in_flight.append(metrics)
                if len(in_flight) > IN_FLIGHT:
                    jax.block_until_ready(in_flight.popleft())
                self.display.advance(step)
                if self._due(self.cadence.log, step) or step == 1:
                    self._log(step, metrics)
                self._evaluate_if_due(step, state, stop)
                if self._due(self.cadence.checkpoint, step):
                    self._save(step, state)
                self._leave_if_asked(step, state, stop)
            self._evaluate(step, state, self.final_evaluators, stop)
            self.display.activity("waiting for the last checkpoint")
            self._leave_if_asked(step, state, stop)
            self.checkpointer.wait()
            self.display.activity("")
        return state

    def _due(self, every: int, step: int) -> bool:
        return step % every == 0 or step == self.steps

    def _log(self, step: int, metrics: Metrics) -> None:
        values = {name: float(value) for name, value in jax.device_get(metrics).items()}
        values["examples_per_second"] = self.display.metrics(step, values)
        self.writer.write(step, values)

    def _evaluate_if_due(self, step: int, state: TrainState, stop: StopRequest) -> None:
        if self._due(self.cadence.evaluate, step):
            self._evaluate(step, state, self.evaluators, stop)

    def _evaluate(
        self, step: int, state: TrainState, evaluators: Mapping[str, Evaluate], stop: StopRequest
    ) -> None:
        """Runs evaluators one by one; what is left when a signal comes is done on resuming."""
        for name, evaluate in evaluators.items():
            if stop.signum is not None:
                return
            self.display.activity(f"evaluating {name}")
            try:
                values = evaluate(state)
            except Exception:
                self._save(step, state)  # the steps since the last checkpoint are not to blame
                self.checkpointer.wait()
                raise
            if values:
                self.writer.write(step, values)
            self.display.activity("")
        self.writer.flush()

    def _leave_if_asked(self, step: int, state: TrainState, stop: StopRequest) -> None:
        if stop.signum is not None:
            # Here and not before: a signal may come at any line, and what is said must be saved.
            self._save(step, state)
            self.checkpointer.wait()
            raise Interrupted(stop.signum, step)

    def _save(self, step: int, state: TrainState) -> None:
        self.writer.flush()
        self.checkpointer.save(step, state, self.files(step))
