"""Training from the command line, end to end."""

import json
import signal
import time

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest

from vljax.training import metrics
from vljax.training.checkpoint import complete_steps, verify

TINY = ("train.py", "configs/quickstart.py:tiny")


@pytest.fixture(scope="session")
def uninterrupted(call, tmp_path_factory):
    """A finished run: its workdir, and what it wrote to `--json`."""
    workdir = tmp_path_factory.mktemp("run") / "workdir"
    result = workdir.parent / "result.json"
    code = (
        "import runpy, sys\n"
        f"sys.argv = {[*TINY, '--workdir', str(workdir), '--json', str(result)]!r}\n"
        "try: runpy.run_path('train.py', run_name='__main__')\n"
        "except SystemExit as stop: assert stop.code == 0, stop.code\n"
        "print('MODULES', *({'tensorflow', 'torch', 'jax'} & set(sys.modules)))"
    )
    status, out, err = call("-c", code)
    assert status == 0, err
    return workdir, json.loads(result.read_text()), out, err


def comparable(result):
    return {k: v for k, v in result.items() if k not in (*metrics.TIMING_METRICS, "workdir")}


def test_a_run_writes_checkpoints_metrics_and_plots(uninterrupted):
    workdir, result, out, err = uninterrupted
    assert complete_steps(str(workdir)) == [10, 15, 20]
    assert verify(workdir / "checkpoints" / "20") == []
    names = {path.name for path in (workdir / "checkpoints" / "20").iterdir()}
    assert names == {
        "state",
        "recipe.json",
        "environment.json",
        "tokenizer",
        "preprocess.json",
        "data.json",
        "accounting.json",
        "manifest.json",
    }
    plots = {path.name for path in (workdir / "plots").iterdir()}
    assert {"loss.png", "learning_rate.png", "retrieval_examples.png"} <= plots
    assert {"recall_builtin_validation.png", "recall_builtin_test.png"} <= plots
    for plot in plots:
        assert str(workdir / "plots" / plot) in out
    assert result["step"] == 20
    for name in (
        "retrieval/builtin/validation/image_to_text/recall@5",
        "retrieval/builtin/test/text_to_image/recall@10",
        "retrieval/builtin/test/text_to_image/median_rank",
        "zero_shot/builtin/test/accuracy@1",
        "zero_shot/builtin/test/mean_per_class",
    ):
        assert name in result
        assert name in out or name.split("/")[-1] in out
    assert "step 1/20" in err
    assert "\x1b[" not in err


def test_eval_measures_what_training_did(uninterrupted, call):
    """All evaluators of the recipe, from the checkpoint alone."""
    workdir, result, _, _ = uninterrupted
    status, out, err = call("-m", "vljax.commands.main", "eval", workdir, "--json", "-")
    assert status == 0, err
    (model,) = json.loads(out)["models"]
    found = {
        f"{task['task']}/{name}": value["value"]
        for task in model["tasks"]
        for name, value in task["metrics"].items()
    }
    expected = {
        name: value for name, value in result.items() if name.startswith(("retrieval", "zero_shot"))
    }
    assert len(expected) > 30
    assert found == expected


def test_neither_tensorflow_nor_pytorch_is_imported(uninterrupted):
    assert uninterrupted[2].splitlines()[-1].split() == ["MODULES", "jax"]


def test_the_run_is_described(uninterrupted):
    workdir, _, _, _ = uninterrupted
    described = json.loads((workdir / "run.json").read_text())
    assert described["recipe"]["model"]["nodes"]["image"]["type"] == "vit"
    assert described["resolved"]["precision"] == "float32"
    assert described["versions"]["jax"]
    assert described["devices"]["count"] == 1
    saved = json.loads((workdir / "checkpoints" / "20" / "recipe.json").read_text())
    assert saved == described["recipe"]


def test_rows_of_metrics(uninterrupted):
    workdir, _, _, _ = uninterrupted
    rows = metrics.read(str(workdir))
    logged = [row["step"] for row in rows if "loss" in row]
    assert logged == list(range(1, 21))
    assert all(row["valid_examples"] == 64 for row in rows if "loss" in row)
    taken = [(row["data/decoded"], row["data/rejected"]) for row in rows if "loss" in row]
    assert taken == [(64 * step, 0) for step in range(1, 21)]
    assert all(0 <= row["input/wait"] <= 1 for row in rows[1:] if "loss" in row)
    evaluated = [r["step"] for r in rows if "zero_shot/builtin/validation/accuracy@1" in r]
    assert evaluated == [10, 20]


def wait_for(path, process):
    while not path.exists():
        assert process.poll() is None, process.communicate()
        time.sleep(0.005)


def arrays(workdir):
    """All arrays of the last checkpoint, as Orbax itself reads them."""
    with ocp.StandardCheckpointer() as reader:
        return reader.restore(workdir / "checkpoints" / "20" / "state")


# SIGINT is handled as SIGTERM is: each run of the tests sends one of the two.
SIGINT = pytest.param(
    "SIGINT",
    marks=pytest.mark.slow(
        subject=[
            "vljax/commands/main.py",
            "vljax/launch.py",
            "vljax/training/interrupt.py",
            "vljax/training/loop.py",
        ]
    ),
)


@pytest.mark.parametrize("name", ["SIGKILL", "SIGTERM", SIGINT])
def test_a_killed_run_resumes_to_the_same_result(start, call, uninterrupted, tmp_path, name):
    command = (*TINY, "--workdir", tmp_path / "w", "--json", tmp_path / "result.json")
    process = start(*command)
    wait_for(tmp_path / "w" / "checkpoints" / "5" / "manifest.json", process)
    process.send_signal(getattr(signal, name))
    _, err = process.communicate(timeout=60)
    if name == "SIGKILL":
        assert process.returncode == -signal.SIGKILL
    else:
        assert process.returncode == 128 + getattr(signal, name)
        (message,) = (line for line in err.splitlines() if line.startswith("stopped by "))
        assert message.startswith(f"stopped by {name}; saved at step ")
        assert message.endswith(f"To go on: python {' '.join(map(str, command))}")
    saved = complete_steps(str(tmp_path / "w"))
    assert 20 not in saved
    status, _, err = call(*command)
    assert status == 0, err
    assert f"resuming at step {saved[-1]} of 20" in err
    assert comparable(json.loads((tmp_path / "result.json").read_text())) == comparable(
        uninterrupted[1]
    )
    jax.tree.map(np.testing.assert_array_equal, arrays(tmp_path / "w"), arrays(uninterrupted[0]))


def test_a_finished_run_started_again_only_evaluates(call, uninterrupted, tmp_path):
    workdir, result, _, _ = uninterrupted
    status, _, err = call(*TINY, "--workdir", workdir, "--json", tmp_path / "r.json")
    assert status == 0
    assert "resuming at step 20 of 20" in err
    again = comparable(json.loads((tmp_path / "r.json").read_text()))
    assert again == comparable(result)
