"""Quantized folders: their content, their outputs, and errors."""

import functools
import json
import shutil
import zipfile
from dataclasses import replace
from pathlib import Path

import jax
import ml_dtypes
import numpy as np
import pytest

from tests.parity import interop_inputs as inputs
from vljax.commands.main import main
from vljax.config import UserError
from vljax.inference import load
from vljax.interop import exported
from vljax.interop.convert import export_model, import_model
from vljax.interop.files.safetensors import read_folder
from vljax.interop.files.tensors import Lazy
from vljax.interop.quantized import packed, quantized, unpacked
from vljax.models.assembly import Variables
from vljax.models.quantization.forms import FORMS
from vljax.models.quantization.quantized_kernel import QuantizedKernel
from vljax.parallel.mesh import MeshConfig, make_mesh
from vljax.run import build_model

DATA = Path(__file__).parents[1] / "parity" / "data" / "interop"


def quiet(done, total):
    pass


class Home:
    """A small SigLIP as a checkpoint, with one export of each form."""

    def __init__(self, folder):
        with zipfile.ZipFile(DATA / "transformers_siglip_b.zip") as archive:
            archive.extractall(folder / "foreign")
        self.folder, self.checkpoint = folder, folder / "w"
        source = str(folder / "foreign")
        import_model(source, str(self.checkpoint), overwrite=False, report=quiet)

    @functools.cache  # noqa: B019
    def written(self, quantize=None, dtype="float32"):
        out, source = self.folder / f"{quantize}-{dtype}", str(self.checkpoint)
        asked = {"dtype": dtype, "quantize": quantize}
        export_model(source, str(out), "safetensors", **asked, report=quiet)
        return out

    @functools.cache  # noqa: B019
    def embeddings(self, folder):
        model = load(str(folder))
        both = model.encode_image(inputs.images()), model.encode_text(inputs.TEXTS)
        return np.concatenate(both)


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    return Home(tmp_path_factory.mktemp("home"))


@pytest.mark.parametrize("form", ["int8", "int4"])
def test_a_quantized_model_computes_with_its_dequantized_numbers(home, form):
    folder, again = home.written(form), home.folder / f"again-{form}"
    import_model(str(folder), str(again), overwrite=False, report=quiet)
    made, plain = home.embeddings(folder), home.embeddings(home.checkpoint)
    # Imported, the same numbers are float32 parameters.
    np.testing.assert_allclose(made, home.embeddings(again), rtol=0, atol=1e-6)
    assert np.abs(made - plain).max() > 1e-5
    assert np.sum(made * plain, 1).min() > {"int8": 0.9995, "int4": 0.95}[form]


def test_int8_dynamic_has_the_weights_of_int8_and_quantized_features(home):
    dynamic, weights = (home.written(form) for form in ("int8-dynamic", "int8"))
    first, second = (file / "parameters.safetensors" for file in (dynamic, weights))
    assert first.read_bytes() == second.read_bytes()
    made, expected = home.embeddings(dynamic), home.embeddings(weights)
    assert 1e-5 < np.abs(made - expected).max() < 0.03


def test_only_kernels_of_linear_maps_are_quantized(home):
    plain = read_folder(home.written(), "parameters")
    tensors = read_folder(home.written("int8"), "parameters")
    whole = {name for name, tensor in tensors.items() if tensor.dtype == np.int8}
    kernels = {name for name in plain if name.endswith("/kernel")}
    assert whole == kernels
    assert tensors.keys() - plain.keys() == {f"{name}_scale" for name in kernels}
    for name in plain.keys() - kernels:
        np.testing.assert_array_equal(tensors[name].read(), plain[name].read())
    for name in kernels:
        # Outputs are what follows the inputs: (heads, head_dim) of an attention's output.
        split = 2 if "attention/output" in name else 1
        exact = plain[name].read().astype(np.float64)
        exact = exact.reshape(np.prod(exact.shape[:split]), -1)
        scale = tensors[f"{name}_scale"].read()
        np.testing.assert_allclose(scale[0], np.abs(exact).max(0) / 127.5, rtol=3e-7)
        errors = np.abs(tensors[name].read().reshape(exact.shape) * scale - exact)
        assert (errors <= scale / 2 * (1 + 1e-4)).all()


def test_int4_takes_half_a_byte_beside_bfloat16(home):
    tensors = read_folder(home.written("int4", "bfloat16"), "parameters")
    plain = read_folder(home.written(), "parameters")
    for name, tensor in plain.items():
        if name.endswith("/kernel"):
            assert tensors[name].dtype == np.uint8
            assert tensors[name].shape == (np.prod(tensor.shape) // 2,)
        else:
            assert tensors[name].dtype == ml_dtypes.bfloat16
    made = home.embeddings(home.written("int4", "bfloat16"))
    assert np.sum(made * home.embeddings(home.checkpoint), 1).min() > 0.97


def test_bfloat16_weights_stay_bfloat16_in_memory(home):
    folder = home.written(dtype="bfloat16")
    dtypes = {leaf.dtype for leaf in jax.tree.leaves(load(str(folder)).variables.params)}
    assert dtypes == {np.dtype(ml_dtypes.bfloat16)}
    made, plain = home.embeddings(folder), home.embeddings(home.checkpoint)
    np.testing.assert_allclose(made, plain, rtol=0, atol=0.01)


@pytest.mark.parametrize("form", ["int4", "int8-dynamic"])
def test_a_scanned_model_reads_unrolled_layers(home, form):
    folder = home.written(form)
    unrolled = load(str(folder))
    encoders = {k: replace(v, scan=True) for k, v in unrolled.run.model.encoders.items()}
    run = replace(
        unrolled.run,
        model=replace(unrolled.run.model, nodes={**unrolled.run.model.nodes, **encoders}),
    )
    model = build_model(run, make_mesh(MeshConfig(1, 1, 1), jax.devices()[:1]))
    params = exported.open_folder(str(folder)).variables(model).params
    depth = encoders["image"].depth
    kernel = params["image"]["blocks"]["mlp"]["up"]["kernel"]
    assert isinstance(kernel, QuantizedKernel)
    assert kernel.values.shape[0] == kernel.scale.shape[0] == depth > 1
    files = inputs.images()
    batch = {"image": np.stack([unrolled.images(file)["image"] for file in files])}
    outputs, _ = jax.jit(model.apply)(Variables(params, {}), batch)
    made, expected = outputs["image/embedding"], unrolled.encode_image(files)
    # Features are rounded to integers, so a difference in the last bit may change an integer.
    atol = 1e-6 if form == "int4" else 0.01
    np.testing.assert_allclose(made, expected, rtol=0, atol=atol)


def test_an_export_of_a_scanned_run_is_imported(home, tmp_path):
    folder, again = shutil.copytree(home.written(), tmp_path / "copy"), tmp_path / "w"
    recipe = json.loads((folder / "recipe.json").read_text())
    for name in ("image", "text"):
        recipe["model"]["nodes"][name]["scan"] = True
    (folder / "recipe.json").write_text(json.dumps(recipe))
    (folder / exported.MANIFEST).unlink()  # holds the digest of the file
    import_model(str(folder), str(again), overwrite=False, report=quiet)
    np.testing.assert_array_equal(home.embeddings(again), home.embeddings(home.checkpoint))


def test_two_int4_numbers_share_a_byte():
    values = np.array([1, -1, 7, -8, 3])
    np.testing.assert_array_equal(packed(values), [0xF1, 0x87, 0x03])
    every = np.arange(-8, 8).repeat(3).reshape(3, 16)
    np.testing.assert_array_equal(unpacked(packed(every), (3, 16)), every)
    np.testing.assert_array_equal(unpacked(packed(values), (5,)), values)


def test_a_kernel_is_read_once():
    reads = []

    def read():
        reads.append(1)
        return np.ones((8, 4), np.float32)

    own = {"a/kernel": Lazy((8, 4), np.dtype(np.float32), read)}
    made = quantized(own, own, {"a/kernel": 1}, FORMS["int8"])
    assert not reads
    assert [value.read().dtype for value in made.values()] == [np.int8, np.float32]
    assert len(reads) == 1


@pytest.mark.parametrize(
    ("file", "edit", "message"),
    [
        (
            "parameters.safetensors",
            lambda b: b[:-1] + bytes([b[-1] ^ 1]),
            "differs from its digest",
        ),
        ("recipe.json", lambda b: b.replace(b"vit", b"ViT", 1), "recipe.json differs"),
        ("parameters.safetensors", None, "parameters.safetensors is missing"),
        ("export.json", lambda b: b[:40], "export.json is damaged"),
        (
            "export.json",
            lambda b: b.replace(b"int8", b"int3"),
            "cannot read weights quantized as 'int3'",
        ),
    ],
)
def test_errors_name_the_damaged_file(home, tmp_path, file, edit, message):
    path = shutil.copytree(home.written("int8"), tmp_path / "copy") / file
    if edit is None:
        path.unlink()
    else:
        before = path.read_bytes()
        path.write_bytes(edit(before))
        assert path.read_bytes() != before
    with pytest.raises(UserError, match=message):
        load(str(path.parent))


def test_weights_of_another_form_are_an_error(home, tmp_path):
    folder = shutil.copytree(home.written("int8"), tmp_path / "copy")
    file = folder / exported.MANIFEST
    manifest = json.loads(file.read_text())
    file.write_text(json.dumps(manifest | {"quantized": "int4"}))
    with pytest.raises(UserError, match=r"is int8\[.*\], but has to be uint8\["):
        load(str(folder))
    file.write_text(json.dumps(manifest | {"quantized": None}))
    with pytest.raises(UserError, match="is int8; weights have to be one of float64"):
        load(str(folder))


def test_other_formats_cannot_be_quantized(home, capsys):
    out = home.folder / "out"
    asked = ["export", str(home), str(out), "--format", "npz", "--quantize", "int8"]
    assert main(asked) == 2
    expected = "error: --quantize: npz has no quantized weights; use --format safetensors"
    assert capsys.readouterr().err.strip() == expected
    assert not out.exists()
