"""Folders of siglip2, and of single towers, that transformers wrote (`make_families.py`).

References are float32, as is the computation here.
"""

import dataclasses
import json

import jax
import numpy as np
import pytest

from tests.interop.test_folders import quiet, weights
from tests.parity import interop_inputs as inputs
from tests.parity.family_cases import IMAGE, SIGLIP2, TEXT
from vljax.config import UserError
from vljax.inference import load
from vljax.interop import pretrained
from vljax.interop.convert import export_model, import_model
from vljax.models.pretrained import Pretrained
from vljax.run import check_trains, prepare

TOLERANCE = 1e-5


@pytest.mark.parametrize("name", [*SIGLIP2, *IMAGE, *TEXT])
def test_import_computes_the_same_and_export_preserves_every_bit(name, foreign, tmp_path):
    source = foreign(name)
    import_model(str(source), str(tmp_path / "w"), overwrite=False, report=quiet)
    model, stored = load(str(tmp_path / "w")), np.load(source / "outputs.npz")
    if "ids" in stored:
        np.testing.assert_array_equal(model.tokenizer(inputs.TEXTS)[0], stored["ids"])
        text = model.encode_text(inputs.TEXTS)
        np.testing.assert_allclose(text, stored["text"], rtol=0, atol=TOLERANCE)
    if "image" in stored:
        image = model.encode_image(inputs.images())
        np.testing.assert_allclose(image, stored["image"], rtol=0, atol=TOLERANCE)
    if "tokens" in stored:
        tokens = tokens_of(model)
        np.testing.assert_allclose(tokens, stored["tokens"], rtol=0, atol=TOLERANCE)

    out = tmp_path / "out"
    export_model(str(tmp_path / "w"), str(out), "transformers", report=quiet)
    before, after = weights(source), weights(out)
    assert before.keys() == after.keys()
    for key, array in before.items():
        np.testing.assert_array_equal(
            after[key], array.astype(np.float32), err_msg=key, strict=True
        )


def tokens_of(model):
    """The last hidden state; zero for padding."""
    if "image" in model.run.model.encoders:
        images = np.stack([model.images(file)["image"] for file in inputs.images()])
        return model.predictor.run(["image/tokens"], {"image": images})["image/tokens"]
    ids, mask = model.tokenizer(inputs.TEXTS)
    batch = {"text": ids, "text_mask": mask}
    return model.predictor.run(["text/tokens"], batch)["text/tokens"] * mask[..., None]


def imported(name, foreign, tmp_path):
    import_model(str(foreign(name)), str(tmp_path / "w"), overwrite=False, report=quiet)
    return str(tmp_path / "w")


def change_config(folder, file="config.json", **fields):
    content = json.loads((folder / file).read_text())
    (folder / file).write_text(json.dumps({**content, **fields}))


@pytest.mark.parametrize(
    ("name", "fields", "message"),
    [
        ("vit_a", {"qkv_bias": False}, "qkv_bias: is False; vljax has only True"),
        ("vit_a", {"pooler_act": "relu"}, "pooler_act: is 'relu'"),
        ("dinov2_a", {"use_swiglu_ffn": True}, "lacks .*weights_in"),
        ("dinov2_a", {"layerscale_value": "x"}, "layerscale_value: 'x' is not of type float"),
        ("bert_a", {"is_decoder": True}, "is_decoder: is True"),
        ("roberta_a", {"pad_token_id": 3}, "pad_token_id: is 3, but the tokenizer pads with 1"),
    ],
)
def test_unsupported_configurations_are_an_error(name, fields, message, foreign, tmp_path):
    source = foreign(name)
    change_config(source, **fields)
    with pytest.raises(UserError, match=message):
        import_model(str(source), str(tmp_path / "w"), overwrite=False, report=quiet)


def test_siglip2_needs_the_patch_size_of_its_processor(foreign, tmp_path):
    source = foreign("siglip2_a")
    file = "processor_config.json"
    content = json.loads((source / file).read_text())
    content["image_processor"]["patch_size"] = 8
    (source / file).write_text(json.dumps(content))
    with pytest.raises(UserError, match="patch_size: is 8; vljax has only 4"):
        import_model(str(source), str(tmp_path / "w"), overwrite=False, report=quiet)


def test_encoding_the_other_modality_is_an_error(foreign, tmp_path):
    model = load(imported("bert_a", foreign, tmp_path))
    with pytest.raises(UserError, match="the model has no image tower"):
        model.encode_image(inputs.images())


def test_a_single_tower_cannot_be_exported_as_clip(foreign, tmp_path):
    path = imported("vit_a", foreign, tmp_path)
    with pytest.raises(UserError, match="open_clip cannot express model"):
        export_model(path, str(tmp_path / "out"), "open_clip", report=quiet)


def test_export_notes_the_arguments_for_the_siglip2_processor(foreign, tmp_path):
    path = imported("siglip2_a", foreign, tmp_path)
    done = export_model(path, str(tmp_path / "out"), "transformers", report=quiet)
    assert any("patch_size=4, max_num_patches=24, max_length=12" in note for note in done.notes)


@pytest.mark.parametrize(
    ("name", "tower", "layout"),
    [
        ("vit_a", "image", "vit"),
        ("dinov2_a", "image", "dinov2"),
        ("dinov2_with_registers_a", "image", "dinov2"),
        ("roberta_a", "text", "roberta"),
    ],
)
def test_a_tower_initializes_a_run(name, tower, layout, foreign, tmp_path):
    source = foreign(name)
    model = load(imported(name, foreign, tmp_path))
    weights_file = Pretrained(path=str(source / "model.safetensors"), layout=layout)
    run = dataclasses.replace(model.run, pretrained={tower: weights_file})
    made = pretrained.load(prepare(run, jax.devices()[:1]))
    jax.tree.map(np.testing.assert_array_equal, made.params[tower], model.variables.params[tower])


def test_a_layout_of_another_tower_is_an_error(foreign, tmp_path):
    run = load(imported("vit_a", foreign, tmp_path)).run
    wrong = Pretrained(path=str(tmp_path / "foreign/vit_a/model.safetensors"), layout="roberta")
    run = dataclasses.replace(run, pretrained={"image": wrong})
    with pytest.raises(UserError, match=r"roberta is for transformer, but .* is vit"):
        pretrained.load(prepare(run, jax.devices()[:1]))


def test_training_a_single_tower_needs_an_objective(foreign, tmp_path):
    run = load(imported("vit_a", foreign, tmp_path)).run
    with pytest.raises(UserError, match="objectives: a run needs at least one"):
        check_trains(prepare(run, jax.devices()[:1]))
