"""Several processes train the same model as one, stop together, and resume as another number."""

import json
import shutil
import signal
import time
from pathlib import Path

import jax
import numpy as np
import pytest

from tests.multiprocess.conftest import news
from tests.multiprocess.recipe import STEPS
from tests.training.tiny import distance
from vljax.training import example_statistics, metrics
from vljax.training.checkpoint import complete_steps, saved_state

COMMAND = ("train.py", "tests/multiprocess/recipe.py", "--workdir")

# One process sums over devices in another order than several, and ten float32 steps amplify it.
# Differences seen: 4e-7 in metrics, 1.5e-7 in parameters, which ten steps move by 1e-2.
METRICS, PARAMETERS = 2e-6, 1e-6


@pytest.fixture(scope="module")
def alone(run, tmp_path_factory):
    """The workdir of one process with four devices."""
    workdir = tmp_path_factory.mktemp("alone") / "w"
    run(1, (*COMMAND, workdir))
    return workdir


def arrays(workdir: Path):
    folder = workdir / "checkpoints" / str(STEPS)
    return saved_state.read_state(folder, saved_state.shapes(folder))


def assert_same(workdir: Path, reference: Path) -> None:
    """Metrics, bad examples and the last state agree; counts and evaluations agree exactly."""
    found, expected = metrics.read(str(workdir)), metrics.read(str(reference))
    assert [row["step"] for row in found] == [row["step"] for row in expected]
    for row, wanted in zip(found, expected, strict=True):
        assert row.keys() == wanted.keys()
        for name in row.keys() - metrics.TIMING_METRICS:
            exact = name.startswith(("retrieval/", "data/"))
            assert row[name] == (
                wanted[name] if exact else pytest.approx(wanted[name], rel=METRICS)
            )
    assert found[-2]["data/rejected/too_many_pixels"] > 3
    bad = [
        sorted(example_statistics.read(str(folder)), key=lambda row: (row["step"], row["index"]))
        for folder in (workdir, reference)
    ]
    assert bad[0] == bad[1]
    left, right = arrays(workdir), arrays(reference)
    assert distance(left["params"], right["params"]) < PARAMETERS
    jax.tree.map(np.testing.assert_array_equal, left["step"], right["step"])


def beside_bad_examples(text):
    """The output of a process without the lines about examples that it masked out."""
    return [line for line in news(text) if not line.endswith(": masked out")]


# Each layer is split over two processes, which read the same rows.
SPLIT = ("--mesh.data", "1", "--mesh.fsdp", "2", "--mesh.tensor", "2")


# The resumed runs below cover two and four processes in each run of the tests.
@pytest.mark.slow(
    subject=[
        "tests/multiprocess",
        "vljax/data/pipeline",
        "vljax/launch.py",
        "vljax/parallel",
        "vljax/programs.py",
        "vljax/training",
    ]
)
@pytest.mark.parametrize(("count", "mesh"), [(2, ()), (4, SPLIT)])
def test_several_processes_train_as_one(run, alone, tmp_path, count, mesh):
    out, err = run(count, (*COMMAND, tmp_path, *mesh))
    assert_same(tmp_path, alone)
    assert "step 1/10" in err[0]
    for text in (*out[1:], *err[1:]):
        assert not beside_bad_examples(text)
    described = json.loads((tmp_path / "run.json").read_text())
    assert described["resolved"]["processes"] == count
    assert described["devices"]["count"] == 4
    assert complete_steps(str(tmp_path)) == [5, 10]


def wait_for(path: Path, group) -> None:
    while not path.exists():
        assert group.processes[0].poll() is None, group.wait()
        time.sleep(0.005)


@pytest.fixture(scope="module")
def stopped(start, tmp_path_factory):
    """A workdir of two processes after SIGTERM to the second."""
    workdir = tmp_path_factory.mktemp("stopped") / "w"
    group = start(2, (*COMMAND, workdir))
    wait_for(workdir / "metrics.jsonl", group)
    group.processes[1].send_signal(signal.SIGTERM)
    statuses, _, err = group.wait()
    assert statuses == [128 + signal.SIGTERM] * 2, err
    (said,) = (line for line in err[0].splitlines() if line.startswith("stopped by "))
    (saved,) = complete_steps(str(workdir))
    assert said.startswith(f"stopped by SIGTERM; saved at step {saved}. To go on: ")
    assert saved < STEPS
    assert not beside_bad_examples(err[1])
    return workdir


@pytest.mark.parametrize(("count", "mesh"), [(1, ()), (4, SPLIT)])
def test_a_run_of_two_processes_resumes_with_another_number(
    run, alone, stopped, tmp_path, count, mesh
):
    workdir = shutil.copytree(stopped, tmp_path / "w")
    (saved,) = complete_steps(str(workdir))
    # A workdir that was moved still belongs to the same recipe.
    out, err = run(count, (*COMMAND, workdir, *mesh))
    assert f"resuming at step {saved} of {STEPS}" in err[0]
    for text in (*out[1:], *err[1:]):
        assert not beside_bad_examples(text)
    assert_same(workdir, alone)
