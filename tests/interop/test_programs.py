"""Exported StableHLO programs and ONNX graphs compute our embeddings from files and strings.

The programs run in a process that cannot import vljax.
"""

import ast
import dataclasses
import functools
import io
import json
import shutil
import subprocess
import sys

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest
from etils import epath
from jax import export as jax_export
from PIL import Image

from tests.interop.conftest import unzip
from tests.parity import interop_inputs as inputs
from vljax import config
from vljax.commands.main import main
from vljax.config import UserError
from vljax.data.transforms import Flip
from vljax.inference import load
from vljax.interop.checkpoints import read_trained
from vljax.interop.convert import export_model, import_model
from vljax.interop.export_plan import ExportIssues
from vljax.interop.files.safetensors import read_file
from vljax.interop.programs import folder as program_folder
from vljax.interop.programs.standalone.model import Model
from vljax.models.assembly import ModelConfig
from vljax.models.encoders import EfficientNetLite
from vljax.run import Run, prepare
from vljax.training import checkpoint
from vljax.training.checkpoint import manifest
from vljax.workdir import model_files

TOLERANCE = 2e-6
FOREIGN = [
    ("transformers_clip_a", "onnx"),
    ("transformers_siglip_b", "stablehlo"),
    ("transformers_siglip_b", "onnx"),
    ("open_clip_clip_a", "stablehlo"),
    ("open_clip_clip_b", "onnx"),
]
_WITHOUT_VLJAX = """
import runpy, sys
sys.modules["vljax"] = None
folder = sys.argv.pop(1)
sys.path.insert(0, folder)
runpy.run_path(folder + "/embed.py", run_name="__main__")
"""


def quiet(done, total):
    pass


@pytest.fixture(params=["stablehlo", "onnx"])
def kind(request):
    if request.param == "onnx":
        for package in ("jax2onnx", "onnxruntime"):
            pytest.importorskip(package)
    return request.param


def embed(folder, *arguments):
    """Runs `embed.py` of a folder in a process without vljax."""
    command = [sys.executable, "-c", _WITHOUT_VLJAX, str(folder), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, cwd=folder.parent, check=False)


def embeddings(folder, images, texts):
    files = [folder.parent / f"image{i}" for i in range(len(images))]
    for file, content in zip(files, images, strict=True):
        file.write_bytes(content)
    out = folder.parent / "embeddings.npz"
    done = embed(folder, "--images", *files, "--texts", *texts, "--output", out)
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) == len(images) * len(texts)
    with np.load(out) as stored:
        return dict(stored)


def same_as_ours(workdir, folder, tolerance=TOLERANCE):
    model, theirs = load(str(workdir)), embeddings(folder, inputs.images(), inputs.TEXTS)
    for name, ours in (
        ("image", model.encode_image(inputs.images())),
        ("text", model.encode_text(inputs.TEXTS)),
    ):
        np.testing.assert_allclose(theirs[name], ours, rtol=0, atol=tolerance, err_msg=name)


@pytest.mark.parametrize(("name", "kind"), FOREIGN, indirect=["kind"])
def test_programs_compute_the_same_embeddings(name, kind, foreign, tmp_path):
    workdir, out = tmp_path / "w", tmp_path / "out"
    import_model(str(foreign(name)), str(workdir), overwrite=False, report=quiet)
    export_model(str(workdir), str(out), kind, report=quiet)
    same_as_ours(workdir, out)


def test_batch_statistics_are_exported(kind, trained_cnn, tmp_path):
    out = tmp_path / "out"
    export_model(str(trained_cnn), str(out), kind, report=quiet)
    same_as_ours(trained_cnn, out, 1e-5)
    np.testing.assert_array_equal(
        load(str(out)).encode_image(inputs.images()[:1]),
        load(str(trained_cnn)).encode_image(inputs.images()[:1]),
    )
    with pytest.raises(UserError, match=r"batch_stats.*npz cannot store; use stablehlo or onnx"):
        export_model(str(trained_cnn), str(tmp_path / "npz"), "npz", report=quiet)


def test_programs_hold_no_weights_and_the_folder_is_plain_safetensors(
    kind, siglip, exported, tmp_path
):
    out, again = exported(kind), tmp_path / "again"
    described = json.loads((out / "export.json").read_text())
    largest = max(t.dtype.itemsize * int(np.prod(t.shape)) for t in weights(out).values())
    for program in described["programs"].values():
        assert constants(out / program["file"], kind) < min(4096, largest)
        assert program["output"]["shape"] == ["batch", 16]
    import_model(str(out), str(again), overwrite=False, report=quiet)
    expected = load(str(siglip)).encode_text(["a"])
    np.testing.assert_array_equal(load(str(again)).encode_text(["a"]), expected)
    np.testing.assert_array_equal(load(str(out)).encode_text(["a"]), expected)


def test_programs_take_the_inputs_that_inference_takes(siglip, exported, tmp_path):
    made, model = Model(exported("stablehlo")), load(siglip)
    content = inputs.images()[0]
    (tmp_path / "0.png").write_bytes(content)
    pixels = Image.open(io.BytesIO(content)).convert("RGB")
    images = [content, tmp_path / "0.png", str(tmp_path / "0.png"), pixels, np.asarray(pixels)]
    ours = model.encode_image(iter(images))
    np.testing.assert_allclose(made.encode_image(iter(images)), ours, rtol=0, atol=1e-5)
    np.testing.assert_allclose(made.encode_image(pixels), ours[:1], rtol=0, atol=1e-5)
    text = made.encode_text("a cat")
    np.testing.assert_allclose(text, model.encode_text(["a cat"]), rtol=0, atol=1e-5)
    assert made.encode_image([]).shape == made.encode_text([]).shape == (0, 16)
    with pytest.raises(TypeError, match=r"texts\[0\] is None"):
        made.encode_text([None])
    with pytest.raises(ValueError, match=r"no\.png: cannot be read"):
        made.encode_image("no.png")


def test_a_damaged_image_is_an_error_of_one_line(exported, tmp_path):
    out, file = exported("stablehlo"), tmp_path / "broken.png"
    stream = io.BytesIO()
    Image.new("RGB", (40, 40), (9, 90, 200)).save(stream, "PNG")
    # On a chunk without a name Pillow raises a SyntaxError.
    file.write_bytes(stream.getvalue().replace(b"IDAT", b"\0\1\2\3"))
    done = embed(out, "--images", file)
    assert done.returncode == 1
    assert done.stderr.startswith(f"error: {file}: damaged, or not an image of ")
    assert len(done.stderr.splitlines()) == 1


def test_the_readme_example_runs_with_the_packages_that_it_names(kind, exported):
    out = exported(kind)
    readme = (out / "README.md").read_text()
    code = readme.partition("```python\n")[2].partition("```")[0]
    nodes = [node for node in ast.walk(ast.parse(code)) if isinstance(node, ast.Import)]
    needed = {alias.name for node in nodes for alias in node.names} - {"json"}
    needed |= {"safetensors"} if "safetensors" in code else set()
    install = next(line for line in readme.splitlines() if line.startswith("pip install"))
    assert needed <= set(install.split())
    blocked = f"import sys; sys.modules['vljax'] = None\n{code}"
    command = [sys.executable, "-c", blocked]
    done = subprocess.run(command, capture_output=True, text=True, cwd=out, check=False)
    assert done.stdout == "(2, 16)\n", done.stderr


@pytest.mark.parametrize(
    ("name", "missing"), [("dinov2_a", "texts"), ("vit_b", "texts"), ("bert_a", "images")]
)
def test_a_single_tower_is_exported(name, missing, kind, foreign, tmp_path):
    """dinov2_a resizes images to 36 pixels and crops 32."""
    workdir, out = tmp_path / "w", tmp_path / "out"
    import_model(str(foreign(name)), str(workdir), overwrite=False, report=quiet)
    export_model(str(workdir), str(out), kind, report=quiet)
    requires = json.loads((out / "export.json").read_text())["requires"]
    assert ("instant-clip-tokenizer" in requires, "tokenizers" in requires) == (
        False,
        missing == "images",
    )
    model = load(str(workdir))
    given = {"images": [], "texts": []}
    if missing == "texts":
        given["images"] = inputs.images()
        ours = {"image": model.encode_image(given["images"])}
    else:
        given["texts"] = inputs.TEXTS
        ours = {"text": model.encode_text(given["texts"])}
    theirs = embeddings(out, **given)
    assert theirs.keys() == ours.keys()
    for stream, array in ours.items():
        np.testing.assert_allclose(theirs[stream], array, rtol=0, atol=1e-5)
    done = embed(out, *(["--texts", "a"] if missing == "texts" else ["--images", out / "embed.py"]))
    assert (done.returncode, done.stderr) == (1, f"error: the model has no encoder of {missing}\n")


def test_images_as_patches_are_an_error(kind, foreign, tmp_path):
    workdir, out = tmp_path / "w", tmp_path / "out"
    import_model(str(foreign("siglip2_a")), str(workdir), overwrite=False, report=quiet)
    with pytest.raises(UserError, match=r"cannot express data.eval_transforms = .*'patchify'"):
        export_model(str(workdir), str(out), kind, report=quiet)
    assert not out.exists()


def weights(folder):
    return read_file(folder / "parameters.safetensors")


def constants(file, kind):
    """The size of the largest constant in a program in bytes."""
    if kind == "onnx":
        import onnx

        graph = onnx.load(file, load_external_data=False).graph
        inside = [t for t in graph.initializer if not t.external_data]
        inside += [a.t for node in graph.node for a in node.attribute if a.HasField("t")]
        return max(tensor.ByteSize() for tensor in inside)
    text = jax_export.deserialize(bytearray(file.read_bytes())).mlir_module()
    return max(len(line) for line in text.splitlines() if "stablehlo.constant" in line)


def test_stablehlo_runs_on_all_platforms_for_any_batch_size(siglip, tmp_path):
    out = tmp_path / "out"
    export_model(str(siglip), str(out), "stablehlo", dtype="bfloat16", report=quiet)
    program = jax_export.deserialize(bytearray((out / "image.stablehlo").read_bytes()))
    assert program.platforms == ("cpu", "cuda", "tpu")
    assert str(program.in_avals[-1].shape) == "(batch, 34, 34, 3)"
    assert {array.dtype.name for array in weights(out).values()} == {"bfloat16"}
    same_as_ours(siglip, out, 0.02)


@pytest.mark.parametrize(
    ("name", "damage", "message"),
    [
        ("parameters.safetensors", lambda b: b[:-1], "bytes, and should have"),
        ("text.stablehlo", lambda b: b[:-1] + bytes([b[-1] ^ 1]), "is damaged"),
        ("tokenizer/config.json", None, "is missing"),
    ],
)
def test_embed_names_the_damaged_file(exported, tmp_path, name, damage, message):
    out = shutil.copytree(exported("stablehlo"), tmp_path / "out")
    file = out / name
    file.write_bytes(damage(file.read_bytes())) if damage else file.unlink()
    done = embed(out, "--texts", "a")
    assert done.returncode == 1
    assert done.stderr.startswith("error: ")
    assert name in done.stderr
    assert message in done.stderr


def test_onnx_without_jax2onnx_says_what_to_install(siglip, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "jax2onnx", None)
    assert main(["export", str(siglip), str(tmp_path / "out"), "--format", "onnx"]) == 2
    assert "vljax[onnx]" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_an_operation_that_jax2onnx_lacks_is_named(siglip, tmp_path, monkeypatch, capsys):
    def lacking(*args, **options):
        raise NotImplementedError("Reverse scan is not supported")

    monkeypatch.setattr(pytest.importorskip("jax2onnx"), "to_onnx", lacking)
    assert main(["export", str(siglip), str(tmp_path / "out"), "--format", "onnx"]) == 2
    error = capsys.readouterr().err
    assert "jax2onnx cannot express the program 'image': Reverse scan is not supported" in error
    assert "use --format stablehlo" in error


def test_transforms_that_cannot_be_exported_are_an_error(siglip):
    trained, _ = read_trained(checkpoint.find_intact(str(siglip)))
    decode, *others = trained.run.data.eval_transforms
    for transforms, message in (
        ((decode, Flip(), *others), r"'flip'.*it has decode, resize and centre_crop"),
        ((dataclasses.replace(decode, random_background=True), *others), "random_background"),
        ((dataclasses.replace(decode, scaled=True), *others), "--accept resize"),
    ):
        data = dataclasses.replace(trained.run.data, eval_transforms=transforms)
        other = dataclasses.replace(trained, run=dataclasses.replace(trained.run, data=data))
        issues = ExportIssues("stablehlo")
        program_folder.check(other, issues)
        with pytest.raises(UserError, match=message):
            issues.stop()


@pytest.fixture(scope="module")
def siglip(tmp_path_factory):
    """A small SigLIP as a checkpoint. Tests must not change it."""
    folder = tmp_path_factory.mktemp("siglip")
    source = unzip("transformers_siglip_b", folder / "foreign")
    import_model(str(source), str(folder / "w"), overwrite=False, report=quiet)
    return folder / "w"


@pytest.fixture(scope="module")
def exported(siglip):
    """Exports the SigLIP as a kind of program, each kind once. Tests must not change it."""

    @functools.cache
    def export(kind):
        out = siglip.parent / kind
        export_model(str(siglip), str(out), kind, report=quiet)
        return out

    return export


@pytest.fixture(scope="module")
def trained_cnn(tmp_path_factory):
    """A checkpoint of an EfficientNet with statistics that differ from the initial ones."""
    image = EfficientNetLite(image_size=60, width_factor=0.25, depth_factor=0.5)
    recipe = config.load("configs/quickstart.py:tiny", Run)
    model = ModelConfig({**recipe.model.encoders, "image": image, **recipe.model.heads})
    prepared = prepare(dataclasses.replace(recipe, model=model), jax.devices()[:1])
    rng = np.random.default_rng(0)

    def random(path, leaf):
        if path[-1].key in ("variance", "scale"):
            return rng.uniform(0.5, 2, leaf.shape).astype(np.float32)
        width = max(1, np.prod(leaf.shape[:-1])) ** 0.5
        return (rng.normal(size=leaf.shape) / width).astype(np.float32)

    arrays = {"params": prepared.shapes.params, "state": prepared.shapes.state}
    workdir = tmp_path_factory.mktemp("cnn")
    step = workdir / "checkpoints" / "0"
    step.mkdir(parents=True)
    with ocp.PyTreeCheckpointer() as writer:
        writer.save(step / "state", jax.tree_util.tree_map_with_path(random, arrays))
    for name, content in model_files(prepared, prepared.run.data.load_tokenizers()).items():
        (step / name).parent.mkdir(exist_ok=True)
        (step / name).write_bytes(content)
    manifest.write(epath.Path(step))
    return workdir
