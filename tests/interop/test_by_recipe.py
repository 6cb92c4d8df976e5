"""Import of big_vision files, with a recipe that describes their model."""

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tokenizers import Tokenizer, models, pre_tokenizers

from vljax.commands.main import main
from vljax.inference import load

DATA = Path(__file__).parents[1] / "parity" / "data"
# The model in `tests/parity/make_big_vision.py`.
RECIPE = """
from vljax.recipes import (
    Builtin, ChooseText, Data, Decode, Embedding, HuggingFace, ModelConfig, Resize, Run,
    SigmoidContrastive, TextTransformer, ViT, Tokenize,
)

def recipe(variant=""):
    image = ViT(image_size=32, patch_size=8, width=32, depth=3, heads=4, mlp_dim=56, pooling="map")
    text = TextTransformer(
        width=24, depth=2, heads=3, mlp_dim=40, vocab_size=50, context_length=9,
        mask_padding=False, pooling="last",
    )
    transforms = (Decode(), Resize(32), ChooseText(), Tokenize())
    return Run(
        model=ModelConfig(
            {
                "image": image,
                "text": text,
                "embedding": Embedding(32, {"image": "none", "text": "affine"}),
            }
        ),
        data=Data(
            source=Builtin(),
            tokenizers={"text": HuggingFace(None, context_length=9)},
            train_transforms=transforms,
            eval_transforms=transforms,
        ),
        objectives={"main": SigmoidContrastive()},
        steps=1,
        global_batch=8,
    )
"""


@pytest.fixture
def recipe(tmp_path):
    """The arguments after the paths: `--recipe` and overrides."""
    vocabulary = {f"w{i}": i for i in range(48)} | {"<pad>": 48, "<eos>": 49}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="w0"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.add_special_tokens(["<pad>", "<eos>"])
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    (tmp_path / "recipe.py").write_text(RECIPE)
    path, vocabulary = str(tmp_path / "recipe.py"), str(tmp_path / "tokenizer.json")
    special = (
        "--data.tokenizers.text.pad_token",
        "<pad>",
        "--data.tokenizers.text.eos_token",
        "<eos>",
    )
    return ["--recipe", path, "--data.tokenizers.text.path", vocabulary, *special]


@pytest.mark.parametrize("scan", ["True", "False"])
def test_outputs_equal_those_of_big_vision(recipe, scan, tmp_path):
    out = tmp_path / "w"
    fields = [f"--model.nodes.{name}.scan" for name in ("image", "text")]
    fields = [word for field in fields for word in (field, scan)]
    weights = DATA / "big_vision.npz"
    assert main(["import", str(weights), str(out), *recipe, *fields]) == 0
    model = load(str(out))
    with np.load(DATA / "big_vision_outputs.npz") as stored:
        wanted = dict(stored)
    batch = {name: jnp.asarray(wanted[name]) for name in ("image", "text")}
    batch["text_mask"] = jnp.ones(batch["text"].shape, bool)
    outputs = {}
    for want in ("image/embedding", "text/embedding"):
        outputs |= model.predictor.run([want, "logit_scale", "logit_bias"], batch)
    for name in ("image/embedding", "text/embedding"):
        np.testing.assert_allclose(outputs[name], wanted[name], rtol=0, atol=5e-6, err_msg=name)
    with np.load(weights) as arrays:
        assert outputs["logit_scale"] == arrays["params/t"][0]
        assert outputs["logit_bias"] == arrays["params/b"][0]
        stored = sum(array.size for array in arrays.values())
    assert sum(leaf.size for leaf in jax.tree.leaves(model.variables.params)) == stored
    assert model.encode_text(["w3 w4"]).shape == (1, 32)
    text = (out / "checkpoints" / "0" / "recipe.json").read_text()
    assert str(tmp_path) not in text
    assert json.loads(text)["pretrained"] == {}


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (["--model.nodes.image.depth", "4"], "lacks 'Transformer/encoderblock_3"),
        (["--model.nodes.text.mlp_dim", "64"], "has the shape"),
        (["--objectives.main", "softmax"], "holds 'logit_bias', which the recipe's model lacks"),
        (["--model.nodes.image.depht", "3"], "did you mean"),
    ],
)
def test_a_recipe_of_another_model_is_an_error(recipe, fields, message, tmp_path, capsys):
    out = tmp_path / "w"
    assert main(["import", str(DATA / "big_vision.npz"), str(out), *recipe, *fields]) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("error: ")
    assert message in error
    assert not out.exists()


def test_an_error_names_the_part_that_a_file_lacks(recipe, tmp_path, capsys):
    """The model has a logit bias and the file does not."""
    with np.load(DATA / "big_vision.npz") as stored:
        kept = {name: array for name, array in stored.items() if name != "params/b"}
    np.savez(tmp_path / "kept.npz", **kept)
    assert main(["import", str(tmp_path / "kept.npz"), str(tmp_path / "w"), *recipe]) == 2
    assert "has no part 'b'" in capsys.readouterr().err


def test_a_file_of_weights_needs_a_recipe(tmp_path, capsys):
    assert main(["import", str(DATA / "big_vision.npz"), str(tmp_path / "w")]) == 2
    assert "only weights; add --recipe" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["import", "x", "y", "--model.x", "3"])
    assert "--model.x" in capsys.readouterr().err
