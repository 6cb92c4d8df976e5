"""Stored recipes and the files of checkpoints."""

import copy
import dataclasses
import json
from pathlib import Path

import pytest

from vljax import config
from vljax.config import UserError
from vljax.data.sources import Mixture, Part
from vljax.data.tokenizers import Clip
from vljax.data.transforms import (
    ChooseQuestions,
    ChooseText,
    Decode,
    EncodeAnswers,
    Resize,
    Tokenize,
)
from vljax.datasets import Builtin
from vljax.run import Run, prepare, recipe_tokenizers
from vljax.workdir import check_recipe, decode_recipe, describe, model_files, read_recipe

QUICKSTART = Path(__file__).parents[1] / "configs/quickstart.py"


def before_several_tokenizers(recipe):
    """A stored recipe as versions wrote it that tokenized after all transforms."""
    recipe = copy.deepcopy(recipe)
    data = recipe["data"]
    data["tokenizer"] = data.pop("tokenizers")["text"]
    lists = [data["train_transforms"], data["eval_transforms"]]
    lists += [part["transforms"] for part in data["source"].get("parts", {}).values()]
    for transforms in lists:
        if transforms:
            assert transforms.pop()["type"] == "tokenize"
    return recipe


def test_a_recipe_with_one_tokenizer_gets_it_as_text_and_tokenizes_last():
    run = config.load(f"{QUICKSTART}:tiny", Run)
    old = before_several_tokenizers(json.loads(config.to_json(run)))
    assert "tokenize" not in json.dumps(old["data"]["train_transforms"])
    assert decode_recipe(old, "recipe.json") == run


def test_parts_of_a_mixture_are_translated_too():
    run = config.load(f"{QUICKSTART}:tiny", Run)
    own = (Decode(), Resize(60), ChooseText(), Tokenize())
    parts = {"a": Part(Builtin("train")), "b": Part(Builtin("test"), transforms=own)}
    data = dataclasses.replace(run.data, source=Mixture(parts))
    run = dataclasses.replace(run, data=data)
    old = before_several_tokenizers(json.loads(config.to_json(run)))
    assert old["data"]["source"]["parts"]["b"]["transforms"] == config.encode(own[:-1])
    assert decode_recipe(old, "recipe.json") == run


def test_another_recipe_is_an_error():
    with pytest.raises(UserError, match=r"recipe.json: not a recipe of this version of vljax"):
        decode_recipe({"data": {"tokenizers": 3}}, "recipe.json")
    with pytest.raises(UserError, match="not a recipe"):
        decode_recipe([], "recipe.json")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"objectives": null}', "objectives: expected a mapping, got None"),
        ("[]", "(expected fields of Run, got"),
        ("3", "expected fields of Run, got 3"),
        ('{"data": {"tokenizer": 1}}', "unknown field 'data.tokenizer'"),
        ('{"data": {"tokenizer": {}, "source": 3}}', "unknown field 'data.tokenizer'"),
        ('{"model": {"encoders": null}}', "unknown field 'model.encoders'"),
        ('{"objectives": {"main": {"trains": "x"}}}', "objectives.main: expected"),
    ],
)
def test_a_damaged_recipe_is_an_error(content, message, tmp_path):
    file = tmp_path / "recipe.json"
    file.write_text(content)
    with pytest.raises(UserError) as error:
        read_recipe(str(file))
    (line,) = error.value.lines
    assert line.startswith(f"{file}: not a recipe of this version of vljax (")
    assert message in line


def test_a_checkpoint_holds_every_tokenizer():
    run = config.load(f"{QUICKSTART}:tiny", Run)
    tokenizers = {**run.data.tokenizers, "question": Clip()}
    run = dataclasses.replace(run, data=dataclasses.replace(run.data, tokenizers=tokenizers))
    files = model_files(prepare(run), recipe_tokenizers(run))
    found = {name.rpartition("/")[0] for name in files if "/" in name}
    assert found == {"tokenizer", "tokenizers/question"}
    assert json.loads(files["tokenizers/question/config.json"])["type"] == "clip"


def test_a_checkpoint_holds_the_answers():
    run = config.load(f"{QUICKSTART}:tiny", Run)
    asks = (*run.data.eval_transforms, ChooseQuestions(), Tokenize("question"))
    asks = (*asks, EncodeAnswers(("yes", "No")))
    run = dataclasses.replace(run, data=dataclasses.replace(run.data, eval_transforms=asks))
    files = model_files(prepare(run), recipe_tokenizers(run))
    assert files["vocabularies/answer.txt"] == b"yes\nno\n"


def test_a_run_may_get_more_steps_but_nothing_else(tmp_path):
    run = dataclasses.replace(config.load(f"{QUICKSTART}:tiny", Run), workdir=str(tmp_path))
    describe(str(tmp_path), prepare(run))
    assert read_recipe(str(tmp_path / "run.json")) == run
    check_recipe(str(tmp_path), run)
    check_recipe(str(tmp_path), dataclasses.replace(run, steps=run.steps + 1))
    with pytest.raises(UserError, match=r"another recipe \(steps is 20 there, 19 here\)"):
        check_recipe(str(tmp_path), dataclasses.replace(run, steps=19))
    with pytest.raises(UserError, match=r"another recipe \(seed is 0 there, 1 here\)"):
        check_recipe(str(tmp_path), dataclasses.replace(run, steps=21, seed=1))


def test_a_stored_fusion_without_co_attention_is_read():
    """`cross_attention` had a field for it, before `co_attention` was a component."""
    run = config.load("configs/vqa_cross_attention.py:tiny", Run)
    stored = config.encode(run)
    stored["model"]["nodes"]["fusion"]["co_attention"] = False
    assert decode_recipe(stored, "recipe.json") == run
    stored["model"]["nodes"]["fusion"]["co_attention"] = True
    with pytest.raises(UserError, match=r"unknown field 'model.nodes.fusion.co_attention'"):
        decode_recipe(stored, "recipe.json")


def test_a_recipe_is_read_from_json(tmp_path):
    file = tmp_path / "recipe.json"
    run = config.load(f"{QUICKSTART}:tiny", Run)
    file.write_text(config.to_json(run))
    assert read_recipe(str(file)) == run
    file.write_text("{")
    with pytest.raises(UserError, match=r"recipe.json: not JSON \("):
        read_recipe(str(file))
    file.write_text("[]")
    with pytest.raises(UserError, match=r"recipe.json: not a recipe of this version"):
        read_recipe(str(file))
