"""The loop, with a step that only counts."""

import io
import os
import signal

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from rich.console import Console

from tests.training import tiny
from vljax.config import UserError
from vljax.data.pipeline.batches import BatchStatistics, RejectedExample
from vljax.training import example_statistics, metrics
from vljax.training.checkpoint import Checkpointer, complete_steps
from vljax.training.example_statistics import ExampleStatistics
from vljax.training.interrupt import Interrupted
from vljax.training.loop import Cadence, Guard, Loop
from vljax.training.metrics import MetricsWriter
from vljax.training.progress import ProgressDisplay
from vljax.training.state import TrainState

STEPS = 10


def count(state, batch, hyper):
    """Batch k has the loss k; those from 100 on are skipped."""
    skipped = jnp.where(batch < 100, 0, state.skipped_in_a_row + 1)
    metrics = {"loss": batch, "skipped_in_a_row": skipped}
    return state._replace(step=state.step + 1, skipped_in_a_row=skipped), metrics


STEP = jax.jit(count)  # compiled once for all tests


def nothing(step):
    pass


def state(step=0):
    zero = jnp.int32(0)
    return TrainState(jnp.int32(step), zero, zero, {"x": jnp.zeros(2)}, {}, {}, {}, {}, {})


@pytest.fixture
def run(tmp_path):
    """Runs the loop from a step; returns the state and what happened, in order."""

    def go(
        start=0,
        cadence=Cadence(3, 4, 5),  # noqa: B008
        on_batch=nothing,
        on_evaluate=nothing,
        loss=float,
        bad=lambda k: False,
        limit=1.0,
        evaluate_first=False,
        guard=None,
        value=float,
    ):
        log = []

        resumes = start in complete_steps(str(tmp_path))
        saved = Checkpointer(str(tmp_path)).files(start) if resumes else {}
        counts = saved.get(example_statistics.FILE)
        statistics = ExampleStatistics(str(tmp_path), start, limit, counts)

        def batches(first):
            for k in range(first, 10_000):
                on_batch(k)
                rejected = (
                    (RejectedExample(0, "pets", "", k, "truncated", "ends"),) if bad(k) else ()
                )
                valid = np.array([not rejected, True])
                statistics.record(
                    BatchStatistics(k, valid, np.array([k > 4] * 2), rejected), np.ones(2, bool)
                )
                log.append(("batch", k))
                yield jnp.float32(loss(k))

        def evaluate(name):
            def call(state):
                on_evaluate(int(state.step))
                log.append((name, int(state.step)))
                return {name: value(int(state.step))}

            return call

        console = Console(file=go.printed, width=1000)
        with ProgressDisplay(start, STEPS, 1, console) as display:
            loop = Loop(
                steps=STEPS,
                step=STEP,
                hyper=tiny.hyper(),
                batches=batches,
                statistics=statistics,
                evaluators={"first": evaluate("first"), "validation": evaluate("validation")},
                final_evaluators={"test": evaluate("test")},
                cadence=cadence,
                max_skipped=3,
                checkpointer=Checkpointer(str(tmp_path), keep=9),
                files=lambda step: {"note": str(step).encode()},
                writer=MetricsWriter(str(tmp_path), start),
                display=display,
                evaluate_first=evaluate_first,
                guard=guard,
            )
            try:
                return loop.run(state(start)), log
            finally:
                loop.checkpointer.close()

    go.printed = io.StringIO()
    return go


def test_everything_happens_when_it_is_due(run, tmp_path):
    final, log = run()
    assert int(final.step) == STEPS
    assert [k for name, k in log if name == "batch"] == list(range(STEPS))
    assert [k for name, k in log if name == "validation"] == [4, 8, 10]
    assert [k for name, k in log if name == "test"] == [10]
    assert complete_steps(str(tmp_path)) == [5, 10]
    assert Checkpointer(str(tmp_path)).files(5)["note"] == b"5"
    rows = metrics.read(str(tmp_path))
    # The metrics of step k are those of batch k - 1.
    logged = [(row["step"], row["loss"]) for row in rows if "loss" in row]
    assert logged == [(1, 0), (3, 2), (6, 5), (9, 8), (10, 9)]
    assert [row["step"] for row in rows if "validation" in row] == [4, 8, 10]
    assert [row["step"] for row in rows if "test" in row] == [10]


def test_evaluators_run_before_the_first_step_if_wanted(run, tmp_path):
    _, log = run(evaluate_first=True)
    assert log[:3] == [("first", 0), ("validation", 0), ("batch", 0)]
    assert [k for name, k in log if name == "validation"] == [0, 4, 8, 10]
    assert metrics.read(str(tmp_path))[0] == {"step": 0, "first": 0.0}
    _, log = run(start=5, evaluate_first=True)
    assert [k for name, k in log if name == "validation"] == [8, 10]


def test_rows_have_the_counts_of_examples_and_the_wait_for_them(run, tmp_path):
    run(bad=lambda k: k in (1, 6))
    rows = {row["step"]: row for row in metrics.read(str(tmp_path)) if "loss" in row}
    names = ("decoded", "repeated", "rejected")
    counts = [tuple(rows[step][f"data/{name}"] for name in names) for step in (1, 3, 10)]
    assert counts == [(2, 0, 0), (5, 0, 1), (18, 10, 2)]
    assert rows[10]["data/rejected/truncated"] == 2
    assert [row["index"] for row in example_statistics.read(str(tmp_path))] == [1, 6]
    assert rows[1]["input/wait"] is None
    assert all(0 <= rows[step]["input/wait"] <= 1 for step in (3, 6, 9, 10))


def test_counts_go_on_from_a_checkpoint_between_two_rows(run, tmp_path):
    def on_batch(k):
        if k == 6:
            os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(Interrupted):
        run(on_batch=on_batch, bad=lambda k: k in (1, 6))
    run(start=7, bad=lambda k: k in (1, 6))
    (last,) = (row for row in metrics.read(str(tmp_path)) if row["step"] == 10 and "loss" in row)
    assert (last["data/decoded"], last["data/repeated"], last["data/rejected"]) == (18, 10, 2)
    assert [row["index"] for row in example_statistics.read(str(tmp_path))] == [1, 6]


def test_too_many_rejected_examples_end_the_run_and_checkpoints_are_kept(run, tmp_path):
    """Batch 5 is the first bad one, which the row of step 6 shows."""
    with pytest.raises(UserError, match="1 of the last 12 examples up to step 6 cannot be used"):
        run(bad=lambda k: k > 4, limit=0.0)
    assert complete_steps(str(tmp_path)) == [5]
    assert metrics.read(str(tmp_path))[-1]["data/rejected"] == 1
    assert [row["index"] for row in example_statistics.read(str(tmp_path))] == [5]


def test_it_continues_from_the_step_of_the_state(run):
    _, log = run(start=7)
    assert [k for name, k in log if name == "batch"] == [7, 8, 9]


def test_a_finished_state_is_only_evaluated(run):
    final, log = run(start=STEPS)
    assert int(final.step) == STEPS
    assert log == [("first", STEPS), ("validation", STEPS), ("test", STEPS)]


def test_a_missed_evaluation_is_done_on_resuming(run):
    _, log = run(start=8)
    assert log[:3] == [("first", 8), ("validation", 8), ("batch", 8)]


# --- The guard ------------------------------------------------------------------------------------


def falling(step):
    """An accuracy that loses a point at each step."""
    return 0.8 - step / 100


def guarded(drop, first=None):
    guard = Guard("validation", ("validation",), drop)
    if first is not None:
        guard.add({"validation": first})
    return {"guard": guard, "value": falling, "evaluate_first": True}


def test_a_guard_ends_the_run_at_the_evaluation_after_its_metric_fell_too_far(run, tmp_path):
    final, log = run(cadence=Cadence(3, 2, 5), **guarded(3))
    assert int(final.step) == 4
    assert [step for name, step in log if name == "validation"] == [0, 2, 4]
    assert not any(name == "test" for name, _ in log)
    assert complete_steps(str(tmp_path)) == [4]
    printed = run.printed.getvalue()
    assert "step 4  validation: validation 0.7600 (-0.0400 since the start)" in printed
    assert (
        "stopped at step 4 of 10, and saved: guard: validation is 0.7600, 4.00 points below its"
        " first value 0.8000 (guard_drop 3). To go on, raise guard_drop, or set it to None"
    ) in printed


def test_a_run_that_its_guard_ended_ends_again_and_goes_on_with_a_larger_drop(run, tmp_path):
    run(cadence=Cadence(3, 2, 5), **guarded(3))
    again = guarded(3, first=0.8)
    final, log = run(start=4, cadence=Cadence(3, 2, 5), **again)
    assert int(final.step) == 4
    assert log == [("first", 4), ("validation", 4)]
    final, log = run(start=4, cadence=Cadence(3, 2, 5), **guarded(6, first=0.8))
    assert int(final.step) == 8
    assert complete_steps(str(tmp_path)) == [4, 5, 8]


@pytest.mark.parametrize("drop", [None, 10])
def test_a_guard_that_allows_the_fall_does_not_end_the_run(run, drop):
    final, log = run(**guarded(drop))
    assert int(final.step) == STEPS
    assert log[-1] == ("test", STEPS)
    assert (
        "step 10  validation: validation 0.7000 (-0.1000 since the start)" in run.printed.getvalue()
    )
    assert "step 10  first: first 0.7000 (-0.0200)" in run.printed.getvalue()


def test_a_metric_that_is_no_longer_a_number_has_fallen(run):
    guard = Guard("validation", ("validation",), 50)
    value = lambda step: float("nan") if step == 4 else 0.8  # noqa: E731
    final, _ = run(guard=guard, value=value, evaluate_first=True)
    assert int(final.step) == 4


def stop(step):
    os.kill(os.getpid(), signal.SIGTERM)


def test_a_signal_during_an_evaluation_leaves_the_rest_for_later(run, tmp_path):
    with pytest.raises(Interrupted, match="at step 4"):
        run(on_evaluate=stop)
    assert complete_steps(str(tmp_path)) == [4]
    assert [list(row)[1] for row in metrics.read(str(tmp_path)) if row["step"] == 4] == ["first"]
    _, log = run(start=4)
    assert log[1] == ("validation", 4)


def test_a_signal_during_the_final_evaluation(run, tmp_path):
    with pytest.raises(Interrupted, match="at step 10"):
        run(cadence=Cadence(3, 100, 5), start=STEPS, on_evaluate=stop)


def test_a_failing_evaluator_loses_no_step(run, tmp_path):
    def fail(step):
        if step == 8:
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        run(on_evaluate=fail)
    assert complete_steps(str(tmp_path)) == [5, 8]


def test_too_many_skipped_steps_end_the_run_before_they_are_saved(run, tmp_path):
    """Batches 7 to 9 are bad: at step 10, where the end is saved, it is known."""
    with pytest.raises(UserError, match="3 steps in a row were skipped up to step 10 "):
        run(loss=lambda k: 100 if k > 6 else k)
    assert complete_steps(str(tmp_path)) == [5]
    assert not [row for row in metrics.read(str(tmp_path)) if row["step"] == 10 and "test" in row]


def test_skipped_steps_with_a_good_one_between_go_on(run):
    final, _ = run(loss=lambda k: 100 if k % 3 else k)
    assert int(final.step) == STEPS


def test_a_signal_saves_the_current_step(run, tmp_path):
    def on_batch(k):
        if k == 6:
            os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(Interrupted, match="stopped by SIGTERM at step 7") as stop:
        run(on_batch=on_batch)
    assert (stop.value.signum, stop.value.step) == (signal.SIGTERM, 7)
    assert complete_steps(str(tmp_path)) == [5, 7]


def test_a_signal_during_a_missed_evaluation_stops_before_training(run, tmp_path):
    with pytest.raises(Interrupted) as stopped:
        run(start=4, on_evaluate=stop)
    assert stopped.value.step == 4
    assert complete_steps(str(tmp_path)) == [4]


def test_a_stop_checks_pending_steps_first(run, tmp_path):
    """The last of three skipped steps is still pending when the signal comes."""

    def on_batch(k):
        if k == 3:
            os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(UserError, match="skipped"):
        run(on_batch=on_batch, loss=lambda k: 100 if k else 0, cadence=Cadence(9, 9, 9))
    assert complete_steps(str(tmp_path)) == []
