"""metrics.jsonl and its parts."""

import json

import pytest

from vljax.training import metrics
from vljax.training.metrics import MetricsWriter


@pytest.mark.parametrize("parts", [False, True])
def test_rows_are_read_back(tmp_path, parts):
    writer = MetricsWriter(str(tmp_path), 0, parts=parts)
    for step in (1, 2, 10):
        writer.write(step, {"loss": step / 2})
        writer.flush()
    assert metrics.read(str(tmp_path)) == [{"step": k, "loss": k / 2} for k in (1, 2, 10)]


@pytest.mark.parametrize("parts", [False, True])
def test_rows_past_the_resumed_step_are_superseded(tmp_path, parts):
    first = MetricsWriter(str(tmp_path), 0, parts=parts)
    for step in (1, 2, 3, 4):
        first.write(step, {"loss": 0.0})
    first.flush()
    second = MetricsWriter(str(tmp_path), 2, parts=parts)
    for step in (3, 4, 5):
        second.write(step, {"loss": 1.0})
        second.flush()
    rows = metrics.read(str(tmp_path))
    assert [row["step"] for row in rows] == [1, 2, 3, 4, 5]
    assert [row["loss"] for row in rows] == [0.0, 0.0, 1.0, 1.0, 1.0]


def test_several_rows_of_one_step_stay(tmp_path):
    writer = MetricsWriter(str(tmp_path), 0)
    writer.write(3, {"loss": 1.0})
    writer.write(3, {"recall": 0.5})
    assert len(metrics.read(str(tmp_path))) == 2


def test_values_that_are_not_finite_become_null(tmp_path):
    MetricsWriter(str(tmp_path), 0).write(1, {"loss": float("nan"), "norm": float("inf")})
    row = json.loads((tmp_path / "metrics.jsonl").read_text())
    assert row == {"step": 1, "loss": None, "norm": None}


def test_a_line_cut_off_by_a_crash_is_skipped(tmp_path):
    writer = MetricsWriter(str(tmp_path), 0)
    writer.write(1, {"loss": 1.0})
    with open(tmp_path / "metrics.jsonl", "a") as file:
        file.write('{"step": 2, "lo')
    MetricsWriter(str(tmp_path), 1).write(2, {"loss": 2.0})
    assert metrics.read(str(tmp_path)) == [{"step": 1, "loss": 1.0}, {"step": 2, "loss": 2.0}]
