"""Checks on steps once they have finished."""

import jax
import jax.numpy as jnp
import pytest

from vljax.config import UserError
from vljax.training.interrupt import StopRequest
from vljax.training.loop import MAX_PENDING, PendingSteps


class Log:
    """A writer that remembers."""

    def __init__(self):
        self.rows = []

    def write(self, step, values):
        self.rows.append((step, dict(values)))

    def flush(self):
        pass


@pytest.fixture
def pending():
    """Adds the steps of losses and of skipped steps in a row; knows what was written and said."""

    class Recorder:
        def __init__(self):
            self.log, self.said, self.asked = Log(), [], []
            stop = StopRequest(print)
            stop.receive = self.asked.append
            self.steps = PendingSteps(stop, 3, self.log, self.said.append)

        def add(self, losses, skipped=None):
            for i, loss in enumerate(losses):
                metrics = {"loss": loss, "skipped_in_a_row": skipped[i] if skipped else 0}
                self.steps.add(i + 1, {k: jnp.asarray(v) for k, v in metrics.items()})

    return Recorder()


def test_a_spike_is_written_and_said_with_its_step(pending):
    pending.add([2.0, 2.1, 2.2] * 13 + [5.0, 2.0, 2.0])
    ((step, row),) = pending.log.rows
    assert (step, list(row)) == (40, ["loss_spike"])
    # Of the 39 before: median 2.1, median absolute deviation 0.1.
    assert row["loss_spike"] == pytest.approx(2.9 / (1.4826 * 0.1), rel=1e-4)
    (line,) = pending.said
    assert line.startswith("step 40: loss 5.0000 is 20 deviations above the median of the last")


def test_some_steps_stay_pending(pending):
    pending.add([1.0] * 7)
    assert len(pending.asked) == 7 - MAX_PENDING
    pending.steps.drain()
    assert len(pending.asked) == 7


def test_done_tells_whether_the_devices_have_finished(pending):
    assert pending.steps.done()
    slow = jax.jit(lambda x: jax.lax.fori_loop(0, 20, lambda _, y: y @ x, x)[0, 0])
    zero = jnp.int32(0)
    pending.steps.add(1, {"loss": slow(jnp.zeros((1000, 1000))), "skipped_in_a_row": zero})
    assert not pending.steps.done()
    pending.steps.drain()
    assert pending.steps.done()


def test_too_many_skipped_steps_in_a_row(pending):
    pending.add([1.0, float("nan"), float("nan"), 1.0, 1.0], [0, 1, 2, 0, 0])
    pending.steps.drain()
    with pytest.raises(UserError) as error:
        pending.add([float("nan")] * 5, [1, 2, 3, 4, 5])
    said = str(error.value)
    assert said.startswith(
        "max_skipped_steps: 3 steps in a row were skipped up to step 3 (loss nan)"
    )
    assert "\n" not in said
