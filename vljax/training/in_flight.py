"""Steps that were started and are not waited for yet, and what is looked at once they are done."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import NamedTuple

import jax
from jaxtyping import Array

from vljax.config import UserError
from vljax.training.gradients import Metrics
from vljax.training.interrupt import StopRequest
from vljax.training.metrics import Writer
from vljax.training.spikes import SpikeDetector

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
