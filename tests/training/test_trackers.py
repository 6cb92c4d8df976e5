"""Metrics in TensorBoard's event files, and what Weights & Biases is given."""

import struct
import sys
import types

import pytest
from tensorboardX.proto.event_pb2 import Event

from vljax.config import UserError
from vljax.training import metrics
from vljax.training.metrics import MetricsWriter
from vljax.training.trackers import check_trackers, tracked


def events(folder):
    """The events of all files: records of a length, its checksum, the content, its checksum."""
    found = []
    for file in sorted(folder.iterdir()):
        data = file.read_bytes()
        while data:
            (length,) = struct.unpack("<Q", data[:8])
            found.append(Event.FromString(data[12 : 12 + length]))
            data = data[16 + length :]
    return found


def scalars(found):
    return [(e.step, v.tag, round(v.simple_value, 6)) for e in found for v in e.summary.value]


def test_tensorboard_has_the_rows_and_a_resumed_run_supersedes_later_ones(tmp_path):
    for start, steps in ((0, (1, 2, 3)), (1, (2, 3))):
        writer = tracked(
            MetricsWriter(str(tmp_path), start), ("tensorboard",), str(tmp_path), start, dict
        )
        for step in steps:
            writer.write(step, {"loss": step + start / 4, "gradient_norm": float("inf")})
        writer.flush()
        writer.close()
    found = events(tmp_path / "tensorboard")
    assert scalars(found) == [
        *[(step, "loss", step) for step in (1, 2, 3)],
        *[(step, "loss", step + 0.25) for step in (2, 3)],
    ]
    # TensorBoard drops what is at this step or later in files before.
    assert [e.step for e in found if e.session_log.status] == [2]
    assert [row["loss"] for row in metrics.read(str(tmp_path))] == [1, 2.25, 3.25]


class FakeRun:
    def __init__(self, **asked):
        self.asked, self.rows, self.finished = asked, [], False
        self.defined = []

    def define_metric(self, name, step_metric=None):
        self.defined.append((name, step_metric))

    def log(self, row):
        self.rows.append(row)

    def finish(self):
        self.finished = True


def test_weights_and_biases_gets_rows_with_their_step_and_a_resumed_run_the_same_page(
    tmp_path, monkeypatch
):
    runs = []
    fake = types.ModuleType("wandb")
    fake.init = lambda **asked: runs.append(FakeRun(**asked)) or runs[-1]
    monkeypatch.setitem(sys.modules, "wandb", fake)
    check_trackers(("wandb",), str(tmp_path))
    for start in (0, 1):
        writer = tracked(
            MetricsWriter(str(tmp_path), start),
            ("wandb",),
            str(tmp_path),
            start,
            lambda: {"steps": 3},
        )
        writer.write(start + 1, {"loss": 0.5, "gradient_norm": float("nan")})
        writer.close()
    first, second = runs
    assert first.asked["config"] == {"steps": 3}
    assert first.asked["name"] == tmp_path.name
    assert first.asked["resume"] == "allow"
    assert first.asked["id"] == second.asked["id"]
    assert ("*", "step") in first.defined
    assert [run.rows for run in runs] == [[{"step": 1, "loss": 0.5}], [{"step": 2, "loss": 0.5}]]
    assert first.finished
    assert second.finished


def test_what_is_missing_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(UserError, match=r"trackers: wandb needs .*pip install 'vljax\[wandb\]'"):
        check_trackers(("wandb",), "runs/a")
    with pytest.raises(UserError, match="trackers: tensorboard writes to a local folder, and work"):
        check_trackers(("tensorboard",), "gs://bucket/run")
