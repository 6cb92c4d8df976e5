"""Evaluations of a run: the names of metrics, and steps that are not evaluated again."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest

from tests.evaluation.fakes import FakeData, FakePredictor, FakeSource
from vljax import config, launch
from vljax.config import UserError
from vljax.datasets import Builtin
from vljax.evaluation import Retrieval
from vljax.run import Run
from vljax.training.metrics import MetricsWriter
from vljax.training.state import TrainState


def test_steps_already_evaluated_are_found_by_the_prefix(tmp_path):
    run = dataclasses.replace(
        config.load("configs/quickstart.py:tiny", Run),
        workdir=str(tmp_path),
        evaluators={name: Retrieval(Builtin("validation")) for name in ("short", "long")},
        final_evaluators={"short": Retrieval(Builtin("test"))},
    )
    writer = MetricsWriter(str(tmp_path), 0)
    writer.write(1, {"short/builtin/validation/examples": 1.0})
    writer.write(2, {"long/builtin/validation/examples": 1.0, "retrieval/builtin/test/x": 1.0})
    writer.write(3, {"long/builtin/validation/examples": 1.0})
    writer.flush()
    assert launch._evaluated_steps(run, run.evaluator_prefixes(), 2) == {
        "evaluators.short": [1],
        "evaluators.long": [2],
        "final_evaluators.short": [2],
    }


def evaluate(unreadable, step):
    """The metrics at a step, after step 3 has been evaluated."""
    eye = FakePredictor(np.eye(2, dtype=np.float32), np.eye(2, dtype=np.float32), 64)
    data = FakeData(["a", "b"], ["a", "b"], unreadable=unreadable)
    function = launch._evaluate_function(
        "own/fake/test", Retrieval(FakeSource()), data, lambda variables: eye, [3]
    )
    count = jnp.int32(step)
    return function(TrainState(count, count, count, {}, {}, {}, {}, {}, {}))


def test_metrics_and_errors_begin_with_the_prefix():
    values = evaluate((), 2)
    assert values["own/fake/test/text_to_image/recall@1"] == 1.0
    assert all(name.startswith("own/fake/test/") for name in values)
    assert evaluate((), 3) == {}
    message = r"^own/fake/test: no readable example of fake:test has a caption$"
    with pytest.raises(UserError, match=message):
        evaluate((0, 1), 2)
