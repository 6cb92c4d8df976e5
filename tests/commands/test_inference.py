"""Inference from a checkpoint alone: the recipe, data and tokenizer files are gone."""

import io
import json
import shutil

import jax
import numpy as np
import pytest
from PIL import Image

import vljax.datasets.builtin.vocabulary as vocabulary
from vljax.config import UserError
from vljax.data.records import ExampleError
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
    """A workdir, moved away from its deleted data and tokenizer, and embeddings from before."""
    home = tmp_path_factory.mktemp("home")
    for i in range(8):
        (home / f"{i}.png").write_bytes(picture(i))
    rows = [{"image": f"{i}.png", "caption": f"picture {i}", "class": "x"} for i in range(8)]
    (home / "data.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    shutil.copy(vocabulary.FILE, home / "tokenizer.json")
    cheap = ["--model.nodes.image.depth", "1", "--model.nodes.text.depth", "1"]
    for evaluator in ("retrieval", "zero_shot"):
        cheap += [f"--evaluators.{evaluator}", "none", f"--final_evaluators.{evaluator}", "none"]
    status, _, err = call(
        *("train.py", "configs/quickstart.py:tiny", "--workdir", home / "w", *cheap),
        *("--data.source", "jsonl", "--data.source.path", home / "data.jsonl"),
        *(
            "--data.tokenizers.text.path",
            home / "tokenizer.json",
            "--global_batch",
            "8",
            "--steps",
            "2",
        ),
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


@pytest.fixture(scope="module")
def loaded(moved):
    return load(str(moved[0]))


def test_a_workdir_gives_the_same_embeddings_after_the_move(moved, loaded):
    assert loaded.step == 2
    image, text = loaded.encode_image([picture(0)]), loaded.encode_text(["A Picture 1"])
    np.testing.assert_array_equal(image, moved[1][0])
    np.testing.assert_array_equal(text, moved[1][1])
    np.testing.assert_allclose(np.linalg.norm([image[0], text[0]], axis=1), 1, rtol=1e-6)


def test_a_checkpoint_folder_gives_the_same_model(moved, loaded):
    single = load(str(moved[0] / "checkpoints/2"))
    assert single.step == 2
    assert single.run == loaded.run
    jax.tree.map(np.testing.assert_array_equal, single.variables, loaded.variables)
    text = single.encode_text(["A Picture 1"])
    np.testing.assert_array_equal(text, moved[1][1])


def test_a_process_that_imports_only_inference_can_load_it(moved, call):
    code = f"from vljax.inference import load; print(load({str(moved[0])!r}).step)"
    status, out, err = call("-c", code)
    assert (status, out.strip()) == (0, "2"), err


def test_loaded_parameters_are_ema_except_frozen_ones(moved, loaded):
    shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), loaded.variables.params)
    wanted = {"params": shapes, "average": select(".*", shapes, frozen=("image/positions",))}
    stored = read_state(moved[0] / "checkpoints" / "2", wanted, partial=True)
    expected = merge(stored["params"], stored["average"])
    jax.tree.map(np.testing.assert_array_equal, loaded.variables.params, expected)
    assert "positions" not in stored["average"]["image"]
    assert np.any(stored["average"]["logit_scale"] != stored["params"]["logit_scale"])


def test_cleaning_and_preprocessing_are_those_of_training(loaded):
    np.testing.assert_array_equal(
        loaded.encode_text(["a picture"]), loaded.encode_text(["  A  PICTURE "])
    )
    assert loaded.images(picture(0))["image"].shape == (60, 60, 3)


@pytest.mark.parametrize("count", [1, 5, 300])
def test_embeddings_of_all_devices_equal_those_of_one(moved, loaded, count):
    one = load(str(moved[0]), devices=jax.devices()[:1])
    texts = [f"picture {i}" for i in range(count)]
    images = [picture(i % 7) for i in range(count)]
    held = {len(leaf.sharding.device_set) for leaf in jax.tree.leaves(loaded.variables)}
    assert held == {len(jax.local_devices())} == {8}
    for name, inputs in [("image", images), ("text", texts)]:
        made, expected = (getattr(m, f"encode_{name}")(inputs) for m in (loaded, one))
        assert made.shape[0] == count
        np.testing.assert_allclose(made, expected, rtol=0, atol=1e-6, err_msg=name)


def test_one_device_computes_the_model_as_it_is(moved):
    one = load(str(moved[0]), devices=jax.devices()[:1])
    texts = [f"picture {i}" for i in range(4)]  # a number of rows that is computed as it is
    ids, mask = one.tokenizer(texts)
    outputs, _ = jax.jit(one.model.apply)(one.variables, {"text": ids, "text_mask": mask})
    np.testing.assert_array_equal(one.encode_text(texts), outputs["text/embedding"])
    made = one.predictor.run(["text/tokens"], {"text": ids, "text_mask": mask})
    np.testing.assert_array_equal(made["text/tokens"], outputs["text/tokens"])


def test_inputs_are_computed_in_parts(loaded):
    texts = [f"picture {i % 300}" for i in range(300)]
    parts = [loaded.encode_text(texts[start : start + 256]) for start in (0, 256)]
    np.testing.assert_array_equal(loaded.encode_text(texts), np.concatenate(parts))


def test_images_in_any_form(loaded, tmp_path):
    content = picture(0)
    expected = loaded.encode_image([content])
    (tmp_path / "0.png").write_bytes(content)
    path, opened = tmp_path / "0.png", Image.open(io.BytesIO(content))
    array = np.asarray(opened)
    forms = (content, bytearray(content), memoryview(content), path, str(path), opened, array)
    for form in forms:
        np.testing.assert_array_equal(loaded.encode_image(form), expected)
    every = np.repeat(expected, len(forms), axis=0)
    np.testing.assert_allclose(loaded.encode_image(iter(forms)), every, rtol=0, atol=1e-6)
    np.testing.assert_allclose(loaded.encode_image(np.stack([array] * 2)), every[:2], atol=1e-6)


def test_pillow_images_are_upright_and_keep_transparency(loaded):
    turned = Image.open(io.BytesIO(picture(0)))
    exif = turned.getexif()
    exif[0x0112] = 6
    file = io.BytesIO()
    turned.convert("RGBA").save(file, "PNG", exif=exif)
    opened = Image.open(io.BytesIO(file.getvalue()))
    opened.putalpha(77)
    again = io.BytesIO()
    opened.save(again, "PNG", exif=exif)
    np.testing.assert_array_equal(
        loaded.encode_image(opened), loaded.encode_image([again.getvalue()])
    )
    cmyk = Image.new("CMYK", (9, 9), (10, 20, 30, 40))
    rgb = loaded.encode_image(cmyk.convert("RGB"))
    np.testing.assert_array_equal(loaded.encode_image(cmyk), rgb)


def test_a_lone_text_is_one_text(loaded):
    expected = loaded.encode_text(["a cat"])
    assert expected.shape[0] == 1
    np.testing.assert_array_equal(loaded.encode_text("a cat"), expected)
    np.testing.assert_array_equal(loaded.encode_text(np.array(["a cat"])), expected)
    two = loaded.encode_text(text for text in ("a cat", "a dog"))
    np.testing.assert_array_equal(two, loaded.encode_text(["a cat", "a dog"]))


def test_no_inputs_give_no_rows(loaded):
    dim = loaded.encode_text("a").shape[1]
    for made in (loaded.encode_text([]), loaded.encode_image(iter(()))):
        assert made.shape == (0, dim)
        assert made.dtype == np.float32


@pytest.mark.parametrize(
    ("method", "given", "message"),
    [
        ("text", [None], r"texts\[0\] is None, not a string; pass a list of strings"),
        ("text", ["a", ["b"]], r"texts\[1\] is of type list, not a string"),
        ("text", b"a cat", "got of type bytes; pass a list of strings"),
        ("image", [None], r"images\[0\] is None, not an image; pass a list of paths"),
        ("image", 7, "got of type int; pass a list of paths"),
        ("image", np.zeros((4, 4, 3)), r"images\[0\] is an array of float64; pixels have to be"),
        ("image", np.zeros((3, 4, 5), np.uint8), r"of shape \[3, 4, 5\]; an image has the shape"),
        ("image", "no.png", r"no\.png: cannot be read \(No such file or directory\)"),
        ("image", [b"GIF89a"], r"images\[0\]: image "),
    ],
)
def test_other_inputs_are_named(loaded, method, given, message):
    with pytest.raises((TypeError, ValueError, UserError, ExampleError), match=message):
        getattr(loaded, f"encode_{method}")(given)


def test_few_programs_serve_every_number_of_inputs(moved):
    one = load(moved[0], devices=jax.devices()[:1])
    for count in (*range(1, 20), 63, 65, 127, 129, 255, 257, 300):
        assert len(one.encode_text(["a cat"] * count)) == count
    assert one.predictor.forward._compiled._cache_size() == 5


def test_a_path_object_and_the_folder_of_checkpoints(moved, loaded):
    for path in (moved[0], moved[0] / "checkpoints", f"{moved[0]}/checkpoints/"):
        assert load(path).step == loaded.step


def test_a_damaged_checkpoint_is_refused(moved, tmp_path):
    copy = shutil.copytree(moved[0], tmp_path / "w")
    file = copy / "checkpoints" / "2" / "tokenizer" / "tokenizer.json"
    file.write_bytes(file.read_bytes()[:-10])
    with pytest.raises(UserError, match=r"tokenizer\.json"):
        load(str(copy / "checkpoints" / "2"))
    with pytest.raises(UserError, match="no intact checkpoint"):
        load(str(copy))
    file.write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:9b\nsize 9\n")
    with pytest.raises(UserError, match=r"tokenizer/tokenizer\.json: it is a Git LFS pointer"):
        load(str(copy / "checkpoints" / "2"))


def test_an_empty_folder_has_no_checkpoint(tmp_path):
    with pytest.raises(UserError, match="no intact checkpoint"):
        load(str(tmp_path))
