"""Evaluations of a run: the names of metrics, and steps that are not evaluated again."""

import dataclasses
import io
import re

import jax.numpy as jnp
import numpy as np
import pytest
from rich.console import Console

from tests.evaluation.fakes import FakeData, FakePredictor, FakeSource
from vljax import config, launch
from vljax.config import UserError
from vljax.datasets import Builtin
from vljax.evaluation import Retrieval
from vljax.optim import AdamW, Group
from vljax.optim.schedules import WarmupConstant, WarmupCosine
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


@pytest.mark.parametrize("start", [0, 4])
def test_a_guard_compares_with_step_0_of_an_earlier_attempt(tmp_path, start):
    """Also if that attempt ended before its first checkpoint: step 0 is not evaluated again."""
    run = dataclasses.replace(
        config.load("configs/quickstart.py:tiny", Run),
        workdir=str(tmp_path),
        evaluators={"old": Retrieval(Builtin("validation"))},
        guard="old",
        guard_drop=2.0,
    )
    prefixes, metric = (
        run.evaluator_prefixes(),
        "retrieval/builtin/validation/text_to_image/recall@1",
    )
    writer = MetricsWriter(str(tmp_path), 0)
    for step, value in {0: 0.8, 4: 0.7}.items():
        if step <= start:
            writer.write(step, {metric: value, "zero_shot/builtin/validation/accuracy@1": 0.5})
    writer.flush()
    assert 0 in launch._evaluated_steps(run, prefixes, start)["evaluators.old"]
    guard = launch._guard(run, prefixes, start)
    assert guard.first == {metric: 0.8}
    guard.add({metric: 0.7})
    assert guard.problem().startswith(f"guard: {metric} is 0.7000, 10.00 points below its first")


def test_a_guard_needs_the_values_of_step_0(tmp_path):
    run = dataclasses.replace(
        config.load("configs/quickstart.py:tiny", Run),
        workdir=str(tmp_path),
        evaluators={"old": Retrieval(Builtin("validation"))},
        guard="old",
    )
    writer = MetricsWriter(str(tmp_path), 0)
    writer.write(4, {"retrieval/builtin/validation/text_to_image/recall@1": 0.7})
    writer.flush()
    with pytest.raises(UserError, match="guard: 'old' was not evaluated before the first step of"):
        launch._guard(run, run.evaluator_prefixes(), 4)


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


def test_only_changed_learning_rates_of_longer_runs_are_noted():
    """At half of its steps, a cosine without a warm-up has other rates; a constant has not."""
    run = config.load("configs/quickstart.py:tiny", Run)
    cosine = AdamW(learning_rate=1.0, schedule=WarmupCosine(warmup_steps=0))

    def noted(**fields):
        longer = dataclasses.replace(run, steps=2 * run.steps, **fields)
        lines = [*launch._extension_notes(longer, run.steps, run.steps // 2)]
        return [re.search(r"; (\S+)\.schedule is", line)[1] for line in lines]

    assert noted(optim=cosine) == ["optim"]
    assert noted(optim=AdamW(schedule=WarmupConstant())) == []
    own, shared = Group(parameters="image/.*", optim=cosine), Group(parameters="text/.*")
    assert noted(optim=cosine, groups={"a": own}) == ["groups.a.optim"]
    assert noted(optim=cosine, groups={"a": own, "b": shared}) == ["groups.a.optim", "optim"]


def test_names_between_colons_are_not_emoji():
    out = io.StringIO()
    launch._console_log(Console(file=out, width=200))("expand:question:jsonl: left out 2")
    assert out.getvalue() == "expand:question:jsonl: left out 2\n"
