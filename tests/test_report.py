"""What commands print for people, at the width of a small terminal."""

from pathlib import Path

import pytest

from vljax.launch import Finished
from vljax.report import print_finished, print_summary

SUMMARY = {
    "ready": False,
    "unset": ["data.source.path", "data.tokenizer.path"],
    "parameters": {"image": 428_225_600, "total": 877_960_498},
    "platform": "tpu",
    "precision": "bfloat16",
    "mesh": {"data": 8, "fsdp": 64, "tensor": 1},
    "steps": 1_373_291,
    "global_batch": 32_768,
    "examples": 44_999_999_488,
    "notes": ["model.x: " + "long " * 30 + "end", "data.source.path: unset"],
}

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


def test_a_recipe_that_lacks_paths(capsys):
    print_summary("configs/x.py", SUMMARY)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "configs/x.py: valid"
    assert lines[-1] == "to train, set: --data.source.path, --data.tokenizer.path"
    assert lines[-2] == f"note: {SUMMARY['notes'][0]}"
    assert not any("unset" in line for line in lines)
    assert max(map(len, lines[:-2])) <= 80


def test_a_recipe_that_is_ready(capsys):
    print_summary("configs/x.py", SUMMARY | {"ready": True, "unset": [], "notes": []})
    out = capsys.readouterr().out
    assert "to train" not in out
    assert "data 8 x fsdp 64 x tensor 1" in out
    assert "44,999,999,488" in out


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
