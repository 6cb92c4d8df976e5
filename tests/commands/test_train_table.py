"""The printed table of a finished run, at the width of a small terminal."""

from pathlib import Path

import pytest

from vljax.commands.train import print_finished
from vljax.launch import Finished

RETRIEVAL = "retrieval/builtin/test"
METRICS = {
    "loss": 1.23456,
    "contrastive/accuracy": 0.1953125,
    "learning_rate": 7.529223512392491e-05,
    "gradient_norm": None,
    "examples_per_second": 12345.6,
    f"{RETRIEVAL}/image_to_text/recall@10": 0.25,
    f"{RETRIEVAL}/image_to_text/recall@5": 0.125,
    f"{RETRIEVAL}/image_to_text/recall@5_chance": 0.02127,
    f"{RETRIEVAL}/examples": 5_000_000.0,
    "zero_shot/builtin/validation/accuracy@1": 0.158,
}


@pytest.fixture(autouse=True)
def narrow(monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")


def test_metrics_of_a_finished_run(capsys):
    print_finished(Finished("/w", 270, METRICS, [Path("/w/plots/loss.png")]))
    out = capsys.readouterr().out
    rows = [line.split() for line in out.splitlines() if "\u2500" not in line]
    assert rows == [
        ["after", "step", "270"],
        ["metric", "value", "chance"],
        [RETRIEVAL],
        ["examples", "5,000,000"],
        ["image_to_text/recall@5", "0.1250", "0.0213"],
        ["image_to_text/recall@10", "0.2500"],
        ["zero_shot/builtin/validation"],
        ["accuracy@1", "0.1580"],
        ["training"],
        ["contrastive/accuracy", "0.1953"],
        ["examples_per_second", "12,346"],
        ["gradient_norm", "not", "finite"],
        ["learning_rate", "7.529e-05"],
        ["loss", "1.235"],
        ["/w/checkpoints/270"],
        ["/w/metrics.jsonl"],
        ["/w/plots/loss.png"],
    ]
    assert max(map(len, out.splitlines())) <= 80


def test_a_long_name_is_not_cut_off(capsys):
    name = "contrastive/" + "x" * 90
    print_finished(Finished("/w", 1, {name: 1.0}, []))
    out = capsys.readouterr().out
    assert out.count("x") == 90
    assert "\u2026" not in out


def test_rows_of_a_remote_workdir(capsys):
    print_finished(Finished("gs://bucket/w", 5, {}, []))
    assert capsys.readouterr().out.splitlines()[-1] == "gs://bucket/w/metrics/"
