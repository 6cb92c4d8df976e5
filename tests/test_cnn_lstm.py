"""A contrastive model of a ResNet and an LSTM, from the recipe to exported programs."""

import dataclasses
import json
import shutil
from pathlib import Path

import jax
import numpy as np
import pytest

from tests.interop.test_programs import embeddings
from vljax import config
from vljax.commands.main import main
from vljax.inference import load
from vljax.interop.export_plan import of_recipe, plan_export
from vljax.launch import train
from vljax.optim.schedules import WarmupCosine
from vljax.overrides import override
from vljax.run import Run, prepare

# As on the command line. Batch norms, since their statistics are stored and exported too.
IMAGE, TEXT = "--model.nodes.image", "--model.nodes.text"
TOWERS = (
    *(IMAGE, "resnet", f"{IMAGE}.image_size", "60", f"{IMAGE}.repeats", "1", "1"),
    *(f"{IMAGE}.stem_width", "16", f"{IMAGE}.block", "basic", f"{IMAGE}.groups", "8"),
    *(TEXT, "lstm", f"{TEXT}.vocab_size", "2048", f"{TEXT}.context_length", "16"),
    *(f"{TEXT}.width", "32", f"{TEXT}.bidirectional", "True", f"{TEXT}.dropout", "0.1"),
)
STEPS = 12


def recipe(workdir=None, *changes):
    run = override(config.load("configs/quickstart.py:tiny", Run), [*TOWERS, *changes])
    return dataclasses.replace(
        run,
        workdir=workdir,
        evaluators={},
        final_evaluators={},
        steps=STEPS,
        global_batch=16,
        checkpoint_every=STEPS // 2,
        log_every=1,
        optim=dataclasses.replace(run.optim, schedule=WarmupCosine(warmup_steps=1)),
    )


def losses(workdir):
    """By step."""
    lines = Path(workdir, "metrics.jsonl").read_text().splitlines()
    return {row["step"]: row["loss"] for row in map(json.loads, lines) if "loss" in row}


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    workdir = str(tmp_path_factory.mktemp("cnn_lstm") / "run")
    train(recipe(workdir))
    return workdir


@pytest.fixture(scope="module")
def model(trained):
    return load(trained)


def test_the_loss_falls(trained):
    found = losses(trained)
    assert len(found) == STEPS
    first, last = ([found[k] for k in sorted(found)][part] for part in (slice(3), slice(-3, None)))
    assert np.mean(last) < np.mean(first) - 0.1


def test_the_statistics_of_the_cnn_are_in_the_checkpoint(model):
    statistics = model.variables.state["batch_stats"]["image"]["stem_norm"]
    assert np.abs(statistics["mean"]).max() > 0
    assert np.abs(statistics["variance"] - 1).max() > 0.1


def test_a_resumed_run_ends_as_an_uninterrupted_one(trained, model, tmp_path):
    """Bit for bit, statistics too."""
    half, other = str(STEPS // 2), tmp_path / "run"
    (other / "checkpoints").mkdir(parents=True)
    shutil.copytree(f"{trained}/checkpoints/{half}", other / "checkpoints" / half)
    shutil.copy(f"{trained}/run.json", other)
    train(recipe(str(other)))
    assert losses(other)[STEPS] == losses(trained)[STEPS]
    same = jax.tree.map(np.array_equal, load(str(other)).variables, model.variables)
    assert jax.tree.all(same)


@pytest.mark.parametrize("kind", ["stablehlo", "onnx"])
def test_programs_give_the_same_embeddings(trained, model, tmp_path, kind):
    if kind == "onnx":
        for package in ("jax2onnx", "onnxruntime"):
            pytest.importorskip(package)
    out, texts = tmp_path / "out", ["a cat", "two red dogs in front of a house"]
    assert main(["export", trained, str(out), "--format", kind]) == 0
    records = model.run.data.source.open()
    images = [records.image(i) for i in range(3)]
    theirs = embeddings(out, images, texts)
    for name, ours in (("image", model.encode_image(images)), ("text", model.encode_text(texts))):
        np.testing.assert_allclose(theirs[name], ours, rtol=0, atol=2e-6, err_msg=name)


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("safetensors", "(batch_stats), which safetensors cannot store; use stablehlo or onnx"),
        ("transformers", "cannot express model.nodes.text = 'lstm'; it has transformer"),
        ("open_clip", "cannot express model.nodes.image = 'resnet'; it has vit"),
    ],
)
def test_what_a_format_cannot_express_is_named(trained, tmp_path, kind, message, capsys):
    assert main(["export", trained, str(tmp_path / "out"), "--format", kind]) == 2
    assert message in capsys.readouterr().err


def test_with_group_norms_every_format_of_vljax_has_the_model():
    prepared = prepare(recipe(None, f"{IMAGE}.norm", "group"), jax.devices()[:1])
    for kind in ("safetensors", "npz", "stablehlo", "onnx"):
        assert plan_export(of_recipe(prepared), kind, ())  # else ExportRefused


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            (f"{IMAGE}.norm", "group", f"{IMAGE}.groups", "5"),
            "model.nodes.image.groups: 5 groups do not divide a stem_width of 16; 1 would",
        ),
        ((f"{TEXT}.width", "33"), "model.nodes.text.width: must be even for two directions"),
        (
            ("--accumulate", "2"),
            "accumulate: 2 parts of a batch would each have their own statistics (batch_stats)",
        ),
    ],
)
def test_bad_values_are_errors_of_check(changes, message, capsys):
    assert main(["check", "configs/quickstart.py:tiny", *TOWERS, *changes]) == 2
    assert message in capsys.readouterr().err
