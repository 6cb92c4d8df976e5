"""Errors of import and export name the problem, and nothing is left behind."""

import json

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from vljax.commands.main import main
from vljax.config import UserError
from vljax.interop.convert import export_model, import_model
from vljax.interop.files.read import read_tensors


def quiet(done, total):
    pass


@pytest.fixture
def siglip(foreign):
    return foreign("transformers_siglip_b")


def refused(source, out):
    with pytest.raises(UserError) as error:
        import_model(str(source), str(out), overwrite=False, report=quiet)
    assert not list(out.parent.glob("out*"))
    return str(error.value)


def change(file, edit):
    tensors = load_file(file)
    edit(tensors)
    save_file(tensors, file)


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda t: t.pop("logit_bias"), "lacks 'logit_bias'"),
        (lambda t: t.update(x=np.ones(1, np.float32)), "that this model lacks: 'x'"),
        (lambda t: t.update(logit_bias=np.ones(2, np.float32)), r"\[2\].*asks for \[1\]"),
        (lambda t: t.update(logit_bias=np.ones(1, np.int64)), "'logit_bias' is int64"),
    ],
)
def test_arrays_that_do_not_fit_are_an_error(siglip, tmp_path, edit, message):
    change(siglip / "model.safetensors", edit)
    with pytest.raises(UserError, match=message):
        import_model(str(siglip), str(tmp_path / "out"), overwrite=False, report=quiet)


@pytest.mark.parametrize("keep", [0, 7, 300, -1])
def test_a_truncated_file_is_an_error(siglip, tmp_path, keep):
    file = siglip / "model.safetensors"
    file.write_bytes(file.read_bytes()[:keep])
    assert "not an intact safetensors file" in refused(siglip, tmp_path / "out")


def test_an_unknown_model_type_is_an_error(siglip, tmp_path):
    (siglip / "config.json").write_text(json.dumps({"model_type": "siglip3"}))
    assert "did you mean 'siglip'?" in refused(siglip, tmp_path / "out")


def test_a_folder_without_a_model_is_an_error(tmp_path):
    (tmp_path / "src").mkdir()
    assert "vljax cannot import this" in refused(tmp_path / "src", tmp_path / "out")


def test_an_export_issue_that_is_not_accepted_stops_the_export(foreign, tmp_path):
    clip = foreign("transformers_clip_a")
    import_model(str(clip), str(tmp_path / "w"), overwrite=False, report=quiet)
    with pytest.raises(UserError, match=r"open_clip cannot express .*--accept text-cleaning"):
        export_model(
            str(tmp_path / "w"), str(tmp_path / "out"), "open_clip", accept=["resize"], report=quiet
        )
    assert not (tmp_path / "out").exists()


def test_an_interrupted_export_leaves_nothing(siglip, tmp_path):
    import_model(str(siglip), str(tmp_path / "w"), overwrite=False, report=quiet)

    def interrupt(done, total):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        export_model(str(tmp_path / "w"), str(tmp_path / "out"), "transformers", report=interrupt)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["foreign", "w"]


@pytest.mark.parametrize("kind", ["safetensors", "npz"])
def test_safetensors_and_npz_preserve_every_bit(siglip, tmp_path, kind, capsys):
    first, second = tmp_path / "w", tmp_path / "again"
    assert main(["import", str(siglip), str(first)]) == 0
    assert main(["export", str(first), str(tmp_path / "plain"), "--format", kind]) == 0
    assert main(["import", str(tmp_path / "plain"), str(second)]) == 0
    assert main(["export", str(second), str(tmp_path / "out"), "--format", "transformers"]) == 0
    before, after = (load_file(f / "model.safetensors") for f in (siglip, tmp_path / "out"))
    for name, array in before.items():
        np.testing.assert_array_equal(after[name], array.astype(np.float32), err_msg=name)
    assert main(["import", str(siglip), str(first)]) == 2
    assert "--overwrite" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("model", "file", "edit", "message"),
    [
        ("transformers_siglip_a", "config.json", {"model_type": ["siglip"]}, "unknown model_type"),
        ("dinov2_a", "preprocessor_config.json", {"size": [{}]}, "is not a square"),
        ("vit_a", "preprocessor_config.json", {"image_mean": [{}, 1, 1]}, "three numbers"),
        ("transformers_clip_a", "tokenizer.json", True, "must be a mapping"),
        ("bert_a", "config.json", {"num_attention_heads": 2**31 - 1}, "do not divide the width"),
        ("vit_a", "preprocessor_config.json", {"image_mean": [10**400, 1, 1]}, "is too large"),
        ("bert_a", "tokenizer_config.json", {"pad_token": "\ud83d"}, "is not a token"),
        ("siglip2_a", "tokenizer_config.json", {"model_input_names": 1.5}, "not of type list"),
        (
            "open_clip_clip_a",
            "open_clip_config.json",
            {"model_cfg": {"embed_dim": 16, "vision_cfg": {"image_size": [[], []]}}},
            "is not the side of a square",
        ),
    ],
)
def test_a_value_of_another_type_is_an_error(foreign, tmp_path, model, file, edit, message):
    folder = foreign(model)
    path = folder / file
    changed = {**json.loads(path.read_text()), **edit} if isinstance(edit, dict) else edit
    path.write_text(json.dumps(changed))
    assert message in refused(folder, tmp_path / "out")


def test_json_that_is_nested_too_deeply_is_an_error(siglip, tmp_path):
    (siglip / "config.json").write_text("[" * 10**5)
    assert "not valid JSON (nested too deeply)" in refused(siglip, tmp_path / "out")


def test_a_file_name_that_no_system_allows_is_an_error():
    with pytest.raises(UserError, match="no such file"):
        read_tensors("9" * 5000 + ".safetensors")


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (
            lambda t: t["post_processor"]["special_tokens"].pop("[CLS]"),
            r"post_processor: special_tokens lacks '\[CLS\]', which single names",
        ),
        (
            lambda t: (t["model"].update(unk_token="no"), t["model"]["vocab"].pop("a")),
            r"cannot tokenize a text \(WordPiece error",
        ),
    ],
)
def test_a_tokenizer_that_fails_for_a_text_is_an_error(foreign, tmp_path, edit, message):
    source = foreign("bert_a")
    file = source / "tokenizer.json"
    content = json.loads(file.read_text())
    edit(content)
    file.write_text(json.dumps(content))
    with pytest.raises(UserError, match=rf"tokenizer\.json: {message}"):
        import_model(str(source), str(tmp_path / "out"), overwrite=False, report=quiet)
