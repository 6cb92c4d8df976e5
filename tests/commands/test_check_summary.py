"""The output of `vljax check` for a recipe, at the width of a small terminal."""

from pathlib import Path

import jax
import numpy as np
import pytest

from vljax import config
from vljax.commands.check import print_summary, summarise
from vljax.overrides import override
from vljax.run import Run, prepare

RECIPE = Path(__file__).parents[2] / "configs" / "siglip_vit_b16.py"

SUMMARY = {
    "ready": False,
    "unset": ["data.source.path", "data.tokenizers.text.path"],
    "parameters": {"image": 428_225_600, "total": 877_960_498},
    "trained_parameters": 877_960_498,
    "platform": "tpu",
    "precision": "bfloat16",
    "mesh": {"data": 8, "fsdp": 64, "tensor": 1},
    "slices": 1,
    "steps": 1_373_291,
    "global_batch": 32_768,
    "examples": 44_999_999_488,
    "bytes_per_device": {"parameters": 54_872_531, "optimizer state": 109_745_062},
    "step_bytes_per_device": {"batch": 5_000_000, "saved activations": 70_000_000},
    "placement": [],
    "notes": ["model.x: " + "long " * 30 + "end", "data.source.path: unset"],
}


@pytest.fixture(autouse=True)
def narrow(monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")


def test_unset_paths_are_listed(capsys):
    print_summary("configs/x.py", SUMMARY)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "configs/x.py: valid"
    assert lines[-1] == "to train, set: --data.source.path, --data.tokenizers.text.path"
    assert lines[-2] == f"note: {SUMMARY['notes'][0]}"
    assert not any("unset" in line for line in lines)
    assert max(map(len, lines[:-2])) <= 80


def test_a_ready_recipe_lists_no_unset_paths(capsys):
    print_summary("configs/x.py", SUMMARY | {"ready": True, "unset": [], "notes": []})
    out = capsys.readouterr().out
    assert "to train" not in out
    assert "data 8 x fsdp 64 x tensor 1" in out
    assert "44,999,999,488" in out
    assert "52.3 MiB" in out
    assert "slices" not in out
    (trained,) = (line for line in out.splitlines() if "parameters, trained" in line)
    assert trained.split()[-1] == "all"


def test_several_slices_are_named(capsys):
    print_summary("configs/x.py", SUMMARY | {"slices": 4})
    assert "data 8 x fsdp 64 x tensor 1, 4 slices" in capsys.readouterr().out


def test_the_share_of_trained_parameters_is_shown(capsys):
    print_summary("configs/x.py", SUMMARY | {"trained_parameters": 8_779_605})
    assert "8,779,605 (1.00%)" in capsys.readouterr().out


def prepared(*overrides):
    scanned = [f"--model.nodes.{name}.scan=True" for name in ("image", "text")]
    run = override(config.load(str(RECIPE), Run), [*scanned, *overrides])
    return prepare(run)


def test_bytes_on_each_device_with_everything_whole():
    """Adam has two moments and a count; all is float32."""
    summary = summarise(prepared("--mesh.shard_updates", "False"))
    count = summary["parameters"]["total"]
    assert summary["bytes_per_device"] == {
        "parameters": 4 * count,
        "optimizer state": 8 * count + 4,
        "gradients": 4 * count,
    }
    assert sum(row["bytes"] for row in summary["placement"]) == 4 * count
    assert not any(row["split"] or row["unsplit"] for row in summary["placement"])


def test_data_parallel_devices_shard_moments_and_gradients():
    """Arrays of 2**16 or more elements are split in eight, except parameters."""
    of = prepared()
    on_device = summarise(of)["bytes_per_device"]
    sizes = [leaf.size for leaf in jax.tree.leaves(of.shapes.params)]
    assert on_device["parameters"] == 4 * sum(sizes)
    assert 4 * sum(sizes) / 8 < on_device["gradients"] < 4 * sum(sizes) / 7
    assert on_device["optimizer state"] == 2 * on_device["gradients"] + 4


def test_placement_of_a_recipe():
    """ViT-B with MAP pooling: width 768, MLP 3072, 12 heads, 32,000 tokens."""
    of = prepared("--mesh.fsdp", "4", "--mesh.tensor", "2")
    summary = summarise(of)
    rows = {row["path"]: row for row in summary["placement"]}
    assert len(rows) == len(jax.tree.leaves(of.shapes.params))
    up = rows["image/blocks/mlp/up/kernel"]
    assert up["shape"] == (12, 768, 3072)
    assert up["axes"] == ("layers", "embed", "mlp")
    assert up["split"] == {"fsdp": "embed", "tensor": "mlp"}
    assert up["bytes_per_device"] == 4 * 12 * 768 * 3072 // 8
    table = rows["text/embedding"]
    assert table["split"] == {"fsdp": "embed", "tensor": "vocab"}
    # 768 elements a layer: below the size that FSDP takes apart
    assert rows["image/blocks/mlp_norm/scale"]["split"] == {}
    assert rows["image/blocks/attention/query/bias"]["split"] == {"tensor": "heads"}
    held = summary["bytes_per_device"]
    assert held["parameters"] == sum(row["bytes_per_device"] for row in rows.values())
    assert held["optimizer state"] == 2 * held["parameters"] + 4
    for row in rows.values():
        matrix = np.prod(row["shape"][1 if "/blocks/" in row["path"] else 0 :]) >= 2**16
        assert ("fsdp" in row["split"]) == matrix, row["path"]


def test_the_minimum_size_for_fsdp_is_that_of_the_recipe():
    everything = ("--mesh.fsdp", "8", "--mesh.fsdp_min_size", "0")
    rows = {row["path"]: row for row in summarise(prepared(*everything))["placement"]}
    assert rows["image/blocks/mlp_norm/scale"]["split"] == {"fsdp": "embed"}
    nothing = ("--mesh.fsdp", "8", "--mesh.fsdp_min_size", "100000000")
    assert not any(row["split"] for row in summarise(prepared(*nothing))["placement"])


def test_parameters_that_cannot_be_split_are_listed_with_the_reason(capsys):
    summary = summarise(prepared("--mesh.tensor", "8"))
    print_summary("x", summary)
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("not split")]
    (line,) = lines
    assert line.startswith(
        "not split: tensor 8 does not divide heads 12; 4 would do: "
        "{image,text}/blocks/attention/{key,query,value}/bias, "
    )
