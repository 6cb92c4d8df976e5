"""A checkpoint alone is enough: on another machine, without recipe, data or tokenizer file."""

import io
import json
import shutil

import jax
import numpy as np
import pytest
from PIL import Image

import vljax.datasets.builtin.vocabulary as vocabulary
from vljax.config import UserError
from vljax.inference import load
from vljax.models.parameters import merge, select
from vljax.training.checkpoint.saved_state import read_state


def picture(seed):
    pixels = np.random.default_rng(seed).integers(0, 256, (50, 40, 3), np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture(scope="module")
def moved(call, tmp_path_factory):
    """Two workdir copies: one made while everything is there, one after all of it is gone."""
    home = tmp_path_factory.mktemp("home")
    for i in range(8):
        (home / f"{i}.png").write_bytes(picture(i))
    rows = [{"image": f"{i}.png", "caption": f"picture {i}", "class": "x"} for i in range(8)]
    (home / "data.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    shutil.copy(vocabulary.FILE, home / "tokenizer.json")
    status, _, err = call(
        *("train.py", "configs/quickstart.py:tiny", "--workdir", home / "w"),
        *("--data.source", "jsonl", "--data.source.path", home / "data.jsonl"),
        *("--data.tokenizer.path", home / "tokenizer.json", "--global_batch", "8", "--steps", "2"),
        *("--optim.schedule.warmup_steps", "1", "--optim.ema_decay", "0.9"),
        *("--optim.frozen", "image/positions"),
    )
    assert status == 0, err
    before = load(str(home / "w"))
    expected = before.encode_image([picture(0)]), before.encode_text(["A Picture 1"])
    target = tmp_path_factory.mktemp("elsewhere") / "w"
    shutil.move(home / "w", target)
    shutil.rmtree(home)
    return target, expected


@pytest.mark.parametrize("part", ["", "checkpoints/2"])
def test_it_gives_the_same_embeddings(moved, part):
    workdir, expected = moved
    loaded = load(str(workdir / part))
    assert loaded.step == 2
    image, text = loaded.encode_image([picture(0)]), loaded.encode_text(["A Picture 1"])
    np.testing.assert_array_equal(image, expected[0])
    np.testing.assert_array_equal(text, expected[1])
    np.testing.assert_allclose(np.linalg.norm([image[0], text[0]], axis=1), 1, rtol=1e-6)


def test_it_is_loaded_by_a_process_that_knows_no_recipe(moved, call):
    code = f"from vljax.inference import load; print(load({str(moved[0])!r}).step)"
    status, out, err = call("-c", code)
    assert (status, out.strip()) == (0, "2"), err


def test_it_has_averaged_parameters_and_frozen_ones_as_they_are(moved):
    loaded = load(str(moved[0]))
    shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), loaded.variables.params)
    wanted = {"params": shapes, "average": select(".*", shapes, frozen=("image/positions",))}
    stored = read_state(moved[0] / "checkpoints" / "2", wanted, partial=True)
    expected = merge(stored["params"], stored["average"])
    jax.tree.map(np.testing.assert_array_equal, loaded.variables.params, expected)
    assert "positions" not in stored["average"]["image"]
    assert np.any(stored["average"]["logit_scale"] != stored["params"]["logit_scale"])


def test_cleaning_and_preprocessing_are_those_of_training(moved):
    loaded = load(str(moved[0]))
    np.testing.assert_array_equal(
        loaded.encode_text(["a picture"]), loaded.encode_text(["  A  PICTURE "])
    )
    assert loaded.images(picture(0))["image"].shape == (60, 60, 3)


def test_a_damaged_checkpoint_is_refused(moved, tmp_path):
    copy = shutil.copytree(moved[0], tmp_path / "w")
    file = copy / "checkpoints" / "2" / "tokenizer" / "tokenizer.json"
    file.write_bytes(file.read_bytes()[:-10])
    with pytest.raises(UserError, match=r"tokenizer\.json"):
        load(str(copy / "checkpoints" / "2"))
    with pytest.raises(UserError, match="no intact checkpoint"):
        load(str(copy))


def test_nothing_there(tmp_path):
    with pytest.raises(UserError, match="no intact checkpoint"):
        load(str(tmp_path))
