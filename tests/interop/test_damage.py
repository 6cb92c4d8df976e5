"""Damaged, foreign and incomplete sources, and interrupted exports, through the command.

`test_errors.py` and `test_quantized.py` have more cases of single files.
"""

import hashlib
import json
import shutil

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from tests.interop.conftest import unzip
from tests.interop.test_folders import quiet
from tests.parity import interop_inputs as inputs
from vljax.commands.main import main
from vljax.config import UserError
from vljax.inference import load
from vljax.interop.convert import export_model, import_model

FAMILIES = ["siglip2_a", "vit_a", "dinov2_a", "dinov2_with_registers_a", "bert_a", "roberta_a"]


class Home:
    """One small model, exported once to each format of vljax."""

    def __init__(self, folder):
        self.folder, self.workdir = folder, folder / "w"
        source = unzip("transformers_siglip_b", folder / "foreign")
        import_model(str(source), str(self.workdir), overwrite=False, report=quiet)

    def copy(self, kind, to):
        """`quantized` is safetensors in int8."""
        made = self.folder / kind
        if not made.exists():
            name, form = ("safetensors", "int8") if kind == "quantized" else (kind, None)
            export_model(str(self.workdir), str(made), name, quantize=form, report=quiet)
        return shutil.copytree(made, to)


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    return Home(tmp_path_factory.mktemp("home"))


@pytest.fixture
def refused(tmp_path, capsys):
    """Runs `vljax import`, checks that it fails and leaves nothing; returns its one line."""

    def run(source):
        capsys.readouterr()
        assert main(["import", str(source), str(tmp_path / "out")]) == 2
        lines = capsys.readouterr().err.strip().splitlines()
        assert not list(tmp_path.glob("out*"))
        assert lines[-1].startswith("error: ")
        return lines[-1]

    return run


def change(file, edit):
    tensors = load_file(file)
    edit(tensors)
    save_file(tensors, file)


def first(tensors):
    return sorted(tensors)[0]


def mis_shape(tensors):
    name = first(tensors)
    tensors[name] = np.ones((*tensors[name].shape, 3), np.float32)


def retype(tensors):
    name = first(tensors)
    tensors[name] = np.ones(tensors[name].shape, np.int32)


@pytest.mark.parametrize("name", FAMILIES)
def test_damaged_weights_of_every_family(name, tmp_path, refused):
    source = unzip(name, tmp_path / "source")
    file = source / "model.safetensors"
    whole, expected = file.read_bytes(), first(load_file(file))
    for edit, message in (
        (lambda t: t.pop(first(t)), "lacks"),
        (
            lambda t: t.update(astray=np.ones(1, np.float32)),
            "arrays that this model lacks: 'astray'",
        ),
        (mis_shape, "has the shape"),
        (retype, "is int32; weights have to be"),
    ):
        change(file, edit)
        error = refused(source)
        assert message in error
        assert str(source) in error
        assert "astray" in message or repr(expected) in error
        file.write_bytes(whole)
    file.write_bytes(whole[:-1])
    assert f"{file}: not an intact safetensors file" in refused(source)
    file.unlink()
    assert f"{file}: no such file" in refused(source)


@pytest.mark.parametrize("name", FAMILIES)
def test_damaged_configurations_of_every_family(name, tmp_path, refused):
    source = unzip(name, tmp_path / "source")
    config = source / "config.json"
    whole = config.read_text()
    field = "hidden_size"
    config.write_text(whole.replace(f'"{field}": ', f'"{field}": "x", "_": ', 1))
    assert f"{field}: 'x' is not of type int" in refused(source)
    config.write_text(whole[: len(whole) // 2] + " " * 9)
    assert f"{config}: not valid JSON" in refused(source)
    config.write_text(whole)
    texts = (source / "tokenizer.json").exists()
    others = ["tokenizer.json", "tokenizer_config.json"] if texts else ["preprocessor_config.json"]
    for other in others:
        found = source / other
        found = found if found.exists() else source / "processor_config.json"
        kept = found.read_bytes()
        found.write_bytes(kept[:40])
        assert str(found) in refused(source)
        if other != "tokenizer_config.json" or name == "siglip2_a":  # else it may be missing
            found.unlink()
            assert "no such file" in refused(source)
        found.write_bytes(kept)


WEIGHTS = {"npz": "parameters.npz"}


@pytest.mark.parametrize("kind", ["safetensors", "quantized", "npz", "stablehlo"])
def test_damaged_folders_that_vljax_wrote(kind, home, tmp_path, refused):
    source = home.copy(kind, tmp_path / "source")
    weights = source / WEIGHTS.get(kind, "parameters.safetensors")
    whole = weights.read_bytes()
    for file, edit in (
        (weights, lambda b: b[: len(b) // 2]),
        (weights, lambda b: b"foreign"),
        (source / "recipe.json", lambda b: b[:-9]),
        (source / "recipe.json", lambda b: b.replace(b'"vit"', b'"vat"')),
        (source / "tokenizer" / "config.json", lambda b: b[:9]),
        (source / "tokenizer" / "config.json", None),
    ):
        before = file.read_bytes()
        file.write_bytes(edit(before)) if edit else file.unlink()
        assert file.name in refused(source), file
        file.write_bytes(before)
    assert weights.read_bytes() == whole
    weights.unlink()
    assert weights.name in refused(source) or "vljax cannot import this" in refused(source)


@pytest.mark.parametrize("kind", ["safetensors", "quantized"])
def test_load_finds_damage_in_any_file(kind, home, tmp_path):
    source = home.copy(kind, tmp_path / "source")
    names = [path.relative_to(source) for path in source.rglob("*") if path.is_file()]
    assert len(names) > 5
    weights = source / "parameters.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:9b\n")
    with pytest.raises(UserError, match=r"parameters\.safetensors: it is a Git LFS pointer"):
        load(str(source))
    weights.write_bytes(whole)
    for name in names:
        file = source / name
        before = file.read_bytes()
        for content in (before[:-2], b"", None):
            file.write_bytes(content) if content is not None else file.unlink()
            with pytest.raises(UserError) as error:
                load(str(source))
            assert str(name) in str(error.value)
            file.write_bytes(before)
    assert load(str(source)).encode_text(["a"]).shape == (1, 16)


def test_intact_weights_of_another_model(home, tmp_path, refused):
    """Files with correct digests may still have wrong shapes and names."""
    source = home.copy("npz", tmp_path / "source")
    with np.load(source / "parameters.npz") as stored:
        arrays = dict(stored)
    for edit, message in (
        ({"logit_bias": np.ones(2, np.float32)}, "'logit_bias' has the shape [2]"),
        ({"logit_bias": np.ones((), np.int64)}, "'logit_bias' is int64"),
        ({"other": np.ones(1, np.float32)}, "that this model lacks: 'other'"),
        ({"logit_bias": None}, "lacks 'logit_bias'"),
    ):
        changed = {k: v for k, v in {**arrays, **edit}.items() if v is not None}
        np.savez(source / "parameters.npz", **changed)
        assert "parameters.npz differs from its digest" in refused(source)
        manifest = json.loads((source / "export.json").read_text())
        digest = hashlib.sha256((source / "parameters.npz").read_bytes()).hexdigest()
        manifest["files"]["parameters.npz"]["sha256"] = digest
        (source / "export.json").write_text(json.dumps(manifest))
        assert message in refused(source)


@pytest.mark.parametrize("kind", ["transformers", "safetensors", "npz", "stablehlo", "onnx"])
def test_an_interrupted_export_leaves_no_folder(kind, home, tmp_path):
    """Interrupted at the first array, and at the last one."""
    if kind == "onnx":
        pytest.importorskip("jax2onnx")
    for last in (False, True):

        def interrupt(done, total, last=last):
            if not last or done == total:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            export_model(
                str(home.workdir),
                str(tmp_path / "out"),
                kind,
                accept=["text-cleaning", "resize"],
                report=interrupt,
            )
        assert not list(tmp_path.iterdir())


def test_a_damaged_checkpoint_is_not_exported(home, tmp_path, capsys):
    workdir = shutil.copytree(home.workdir, tmp_path / "w")
    file = next(p for p in (workdir / "checkpoints/0/state").rglob("*") if p.stat().st_size > 5000)
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(bytes(content))
    for kind in ("transformers", "stablehlo"):
        out = tmp_path / "out"
        assert main(["export", str(workdir), str(out), "--format", kind]) == 2
        assert "error: " in capsys.readouterr().err
        assert not out.exists()


def test_quantized_single_towers_are_loaded_and_imported(tmp_path):
    """Import gives the float32 numbers that the bytes represent."""
    for name in ("dinov2_b", "bert_b"):
        workdir, out, again = (tmp_path / f"{name}-{end}" for end in ("w", "int8", "again"))
        assert main(["import", str(unzip(name, tmp_path / name)), str(workdir)]) == 0
        asked = ["--format", "safetensors", "--quantize", "int8"]
        assert main(["export", str(workdir), str(out), *asked]) == 0
        assert main(["import", str(out), str(again)]) == 0
        whole, small, back = (embeddings(load(str(path))) for path in (workdir, out, again))
        np.testing.assert_allclose(small, back, rtol=0, atol=1e-5)
        assert 1e-4 < np.abs(whole - small).max() < 0.05 * np.abs(whole).max()


def embeddings(model):
    if "image" in model.run.model.encoders:
        return model.encode_image(inputs.images())
    return model.encode_text(inputs.TEXTS)
