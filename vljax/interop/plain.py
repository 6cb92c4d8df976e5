"""vljax's own folder formats: parameters under unrolled names, with recipe and tokenizer.

Two formats share everything but the file of arrays: `safetensors`, which may be quantized, and
`npz`, for NumPy. `vljax.load` reads both.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from vljax import config
from vljax.data.tokenizers import load_tokenizer
from vljax.interop import exported
from vljax.interop.export_plan import ExportIssues, ExportPlan, TrainedModel
from vljax.interop.exported import NPZ_WEIGHTS, WEIGHTS
from vljax.interop.files.npz import read_npz, write_npz
from vljax.interop.files.safetensors import SHARD_BYTES, Progress, read_folder, write_folder
from vljax.interop.files.tensors import Lazy, Tensor
from vljax.interop.foreign_config import read_json
from vljax.interop.foreign_model import ForeignModel, placeholder_tokenizer
from vljax.interop.formats import Format
from vljax.interop.mapping import Rule, rule
from vljax.interop.quantized import dequantizing, kernels
from vljax.models.parameters import unrolled_shapes
from vljax.models.quantization.forms import Form
from vljax.parallel.mesh import MeshConfig, find_devices
from vljax.run import Prepared, Run, prepare
from vljax.workdir import decode_recipe, tokenizer_folder

RECIPE, PREPROCESS, ENVIRONMENT = "recipe.json", "preprocess.json", "environment.json"


def rules(names: Iterable[str]) -> list[Rule]:
    """Rules that map each parameter to its own name."""
    return [rule(name, name) for name in names]


def files(trained: TrainedModel) -> dict[str, bytes]:
    """The checkpoint's files about the model, the preprocessing and the tokenizer."""
    kept = (RECIPE, PREPROCESS, ENVIRONMENT)
    return {
        name: content
        for name, content in trained.files.items()
        if name in kept or name.startswith(("tokenizer/", "tokenizers/", "vocabularies/"))
    }


def write_files(out: Path, files: Mapping[str, bytes]) -> None:
    """Writes files by their paths relative to a folder."""
    for name, content in files.items():
        (out / name).parent.mkdir(parents=True, exist_ok=True)
        (out / name).write_bytes(content)


def without_paths(run: Run) -> Run:
    """The run with every path field unset."""
    return config.with_paths(run, lambda _: None)


def _read(
    folder: Path,
    tensors: Mapping[str, Tensor],
    adapt: Callable[[Prepared], Mapping[str, Tensor]] | None = None,
) -> ForeignModel:
    """A folder with a recipe and parameters; `adapt` may replace them once the model is known."""
    recipe = decode_recipe(read_json(folder / RECIPE), str(folder / RECIPE))
    # The recipe comes from another machine, whose paths and devices are not available here.
    run = replace(without_paths(recipe), mesh=MeshConfig(1, 1, 1), attention="auto", workdir=None)
    prepared = prepare(run, find_devices()[:1])
    shapes = unrolled_shapes(prepared.shapes.params)
    tensors = tensors if adapt is None else adapt(prepared)
    main = run.data.main_tokenizer
    has_tokenizer = main in run.data.tokenizers
    tokenizer = (
        load_tokenizer(str(folder / tokenizer_folder(main)))
        if has_tokenizer
        else placeholder_tokenizer()
    )
    kept = {
        file.relative_to(folder).as_posix(): file.read_bytes()
        for name in ("tokenizers", "vocabularies")
        for file in sorted((folder / name).rglob("*"))
        if file.is_file()
    }
    return ForeignModel("parameters of vljax", run, tokenizer, tensors, rules(shapes), files=kept)


# --- safetensors ---


def _is_safetensors(path: Path) -> bool:
    weights = (path / f"{WEIGHTS}.safetensors{end}" for end in ("", ".index.json"))
    return (path / RECIPE).is_file() and any(file.exists() for file in weights)


def _read_safetensors(folder: Path) -> ForeignModel:
    # Early versions wrote no export.json, and could not quantize.
    form = exported.open_folder(str(folder)).form if exported.recognises(str(folder)) else None
    tensors = read_folder(folder, WEIGHTS)
    if form is None:
        return _read(folder, tensors)
    return _read(folder, tensors, lambda prepared: _float32(prepared, tensors, form, folder))


def _float32(
    prepared: Prepared, tensors: Mapping[str, Tensor], form: Form, folder: Path
) -> Mapping[str, Tensor]:
    inputs = kernels(prepared.model)
    shapes = unrolled_shapes(prepared.shapes.params)
    return dequantizing(tensors, inputs, shapes, form, str(folder))


def _plan_safetensors(trained: TrainedModel, issues: ExportIssues) -> ExportPlan:
    def write(out: Path, tensors: Mapping[str, Lazy], progress: Progress) -> Sequence[Path]:
        written = write_folder(out, WEIGHTS, tensors, progress, SHARD_BYTES)
        # `export.json` holds a digest of every other file, so it is written after them.
        write_files(out, files(trained))
        exported.write_manifest(out, "safetensors", trained, {})
        return written

    return ExportPlan(rules(trained.parameters), {}, write)


SAFETENSORS = Format(
    "a folder with parameters.safetensors of vljax",
    _is_safetensors,
    _read_safetensors,
    _plan_safetensors,
)


# --- npz ---


def _is_npz(path: Path) -> bool:
    return (path / RECIPE).is_file() and (path / NPZ_WEIGHTS).exists()


def _read_npz(folder: Path) -> ForeignModel:
    if exported.recognises(str(folder)):
        exported.open_folder(str(folder))  # compares digests
    return _read(folder, read_npz(folder / NPZ_WEIGHTS))


def _plan_npz(trained: TrainedModel, issues: ExportIssues) -> ExportPlan:
    def write(out: Path, tensors: Mapping[str, Lazy], progress: Progress) -> Sequence[Path]:
        write_npz(out / NPZ_WEIGHTS, tensors, progress)
        write_files(out, files(trained))
        exported.write_manifest(out, "npz", trained, {})
        return [out / NPZ_WEIGHTS]

    return ExportPlan(rules(trained.parameters), {}, write)


NPZ = Format("a folder with parameters.npz of vljax", _is_npz, _read_npz, _plan_npz)
