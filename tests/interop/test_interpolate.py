"""Models between a model and its fine-tuned version (WiSE-FT)."""

import dataclasses
import json
import shutil

import jax.numpy as jnp
import numpy as np
import pytest

from tests.interop.conftest import unzip
from tests.interop.test_folders import quiet
from tests.interop.test_initial import parameters_of, recipe, saved
from vljax.commands.main import main
from vljax.config import UserError
from vljax.inference import load
from vljax.interop import convert
from vljax.interop.convert import interpolate_models
from vljax.interop.files.tensors import Lazy
from vljax.interop.initial import read_source
from vljax.models.encoders import EfficientNetLite


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A CLIP that transformers wrote, and a run whose parameters are all 2, on average 3."""
    folder = tmp_path_factory.mktemp("home")
    source = unzip("transformers_clip_a", folder / "foreign")
    run = recipe(source, folder / "recipe")
    optim = dataclasses.replace(run.optim, ema_decay=0.9, frozen=("image/cls",))
    nodes = {n: dataclasses.replace(run.model.nodes[n], scan=True) for n in ("image", "text")}
    model = dataclasses.replace(run.model, nodes={**run.model.nodes, **nodes})
    saved(dataclasses.replace(run, optim=optim, model=model), folder / "w", 2, average=3)
    return folder


@pytest.mark.parametrize("alpha", [0.0, 0.25])
def test_parameters_are_interpolated(alpha, home, tmp_path, capsys):
    words = ["interpolate", *(str(home / n) for n in ("foreign", "w")), str(tmp_path / "out")]
    assert main([*words, "--alpha", str(alpha)]) == 0
    assert "note: 94 of 95 arrays are moving averages (EMA)" in capsys.readouterr().err
    start, made = parameters_of(home / "foreign"), parameters_of(tmp_path / "out")
    assert start.keys() == made.keys()
    for path, array in start.items():
        end = 2 if path == "image/cls" else 3
        np.testing.assert_allclose(made[path], (1 - alpha) * array + alpha * end, rtol=1e-6)
    model = load(tmp_path / "out")
    assert model.encode_text(["a cat"]).shape == (1, 20)


def test_errors(home, tmp_path):
    foreign, out = str(home / "foreign"), str(tmp_path / "out")

    def refused(original, finetuned, message, out=out, **options):
        with pytest.raises(UserError, match=message):
            interpolate_models(str(original), str(finetuned), out, report=quiet, **options)

    refused(foreign, home / "w", r"^--alpha: must be in \[0, 1\], not 1.5$", alpha=1.5)
    refused(foreign, tmp_path, "no intact checkpoint")
    refused("none", home / "w", "^ORIGINAL: no such file or folder: none$")
    other = unzip("transformers_siglip_a", tmp_path / "other")
    refused(other, home / "w", r"other shapes than in \S+: embedding/text/kernel is \[16, 24\]")
    permuted = shutil.copytree(foreign, tmp_path / "permuted")
    content = json.loads((permuted / "tokenizer.json").read_text())
    vocab = content["model"]["vocab"]
    vocab["a</w>"], vocab["b</w>"] = vocab["b</w>"], vocab["a</w>"]
    (permuted / "tokenizer.json").write_text(json.dumps(content))
    refused(permuted, home / "w", r"text/embedding is for another tokenizer than in \S+: the token")
    refused(foreign, home / "w", f"contains {foreign} itself", overwrite=True, out=foreign)
    assert (home / "foreign" / "config.json").exists()
    assert not (tmp_path / "out").exists()


def test_what_does_not_fit_is_noted(home, tmp_path):
    other = shutil.copytree(home / "foreign", tmp_path / "other")
    content = json.loads((other / "config.json").read_text())
    content["vision_config"]["hidden_act"] = "gelu"
    (other / "config.json").write_text(json.dumps(content))
    out = str(tmp_path / "out")
    notes = interpolate_models(str(other), str(home / "w"), out, report=quiet)
    told = "model.nodes.image.activation is 'gelu' there, 'quick_gelu' here: the parameters compute"
    assert any(note.startswith(told) for note in notes)


@pytest.mark.parametrize("dtype", [np.float16, jnp.bfloat16])
def test_half_precision_is_rounded_once(dtype):
    start, end = (
        Lazy((64,), np.dtype(dtype), lambda seed=seed: values(seed).astype(dtype))
        for seed in (0, 1)
    )
    made = convert._between(start, end, 0.3).read()
    wide = [tensor.read().astype(np.float32) for tensor in (start, end)]
    assert made.dtype == np.dtype(dtype)
    np.testing.assert_array_equal(made, (0.7 * wide[0] + 0.3 * wide[1]).astype(dtype))


def values(seed):
    return np.random.default_rng(seed).normal(size=64)


def test_batch_statistics_cannot_be_interpolated(home, tmp_path, capsys):
    run = read_source(str(home / "w")).run
    nodes = {**run.model.nodes, "image": EfficientNetLite(image_size=32)}
    optim = dataclasses.replace(run.optim, frozen=(), ema_decay=None)
    run = dataclasses.replace(run, model=dataclasses.replace(run.model, nodes=nodes), optim=optim)
    folder = str(saved(run, tmp_path / "w", 2))
    assert main(["interpolate", folder, folder, str(tmp_path / "out")]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(
        f"error: {folder}/checkpoints/3: has batch_stats, which do not fit inter"
    )
    assert not (tmp_path / "out").exists()
