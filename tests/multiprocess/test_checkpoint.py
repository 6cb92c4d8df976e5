"""Checkpoints of several processes: process 0 checks, and all processes follow."""

import shutil

import pytest

from tests.multiprocess.conftest import news
from tests.multiprocess.joined import joined
from vljax.training.checkpoint import complete_steps, verify

PRELUDE = """
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec
from vljax.training.checkpoint import manifest
from vljax.training.checkpoint import Checkpointer
mesh = Mesh(np.array(jax.devices()), ("x",), axis_types=(AxisType.Auto,))
split = NamedSharding(mesh, PartitionSpec("x"))
def state(step):
    whole = np.full(8, step, np.float32)
    return {"a": jax.make_array_from_callback((8,), split, lambda index: whole[index])}
shape = {"a": jax.ShapeDtypeStruct((8,), np.float32, sharding=split)}
reports = []
saver = Checkpointer(WORKDIR, report=reports.append)
"""


def script(workdir, lines):
    return joined(PRELUDE.replace("WORKDIR", repr(str(workdir))) + lines)


@pytest.fixture(scope="module")
def saved(run, tmp_path_factory):
    """A workdir with the steps 1 and 2, saved by two processes."""
    workdir = tmp_path_factory.mktemp("saved") / "w"
    lines = "for step in (1, 2): saver.save(step, state(step), {'note': b'x'})\nsaver.close()"
    run(2, script(workdir, lines))
    assert complete_steps(str(workdir)) == [1, 2]
    assert all(not verify(workdir / "checkpoints" / str(step)) for step in (1, 2))
    return workdir


RESTORE = """
restored = saver.restore(shape)
print("step", restored.step, *(float(s.data[0]) for s in restored.state["a"].addressable_shards))
print("reports", len(reports))
"""


@pytest.mark.parametrize("count", [1, 2, 4])
def test_all_processes_skip_a_damaged_checkpoint(run, saved, tmp_path, count):
    workdir = shutil.copytree(saved, tmp_path / "w")
    (workdir / "checkpoints" / "2" / "note").write_bytes(b"y")
    out, _ = run(count, script(workdir, RESTORE))
    for i, text in enumerate(out):
        # Process 0 verifies the checkpoints and logs the one that it skips.
        reports = 1 if i == 0 else 0
        assert news(text) == [" ".join(["step 1", *["1.0"] * (4 // count)]), f"reports {reports}"]


def test_a_failure_of_process_0_ends_all_processes(start, saved, tmp_path):
    workdir = shutil.copytree(saved, tmp_path / "w")
    lines = """
def fail(*_): raise OSError(28, "No space left on device")
if is_first(): manifest.write = fail
saver.save(3, state(3), {})
saver.wait()
"""
    statuses, _, err = start(2, script(workdir, lines)).wait(120)
    assert statuses == [2, 2]
    for text in err:
        assert "No space left on device" in text
        assert "to save step 3" in text or "cannot save step 3" in text
    assert complete_steps(str(workdir)) == [1, 2]
