"""Plain safetensors of the parameters under our own unrolled names, and all that goes with them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vljax.interop import export_manifest, exported, plain
from vljax.interop.export_issues import Losses
from vljax.interop.exported import WEIGHTS
from vljax.interop.format import Format, Reading, Trained, Writing
from vljax.interop.quantized import dequantizing, kernels
from vljax.interop.safetensors_files import SHARD_BYTES, read_folder, write_folder
from vljax.interop.tensors import Tensor
from vljax.models.parameters import unrolled_shapes
from vljax.models.quantization.forms import Form
from vljax.run import Prepared


def _recognises(path: Path) -> bool:
    weights = (path / f"{WEIGHTS}.safetensors{end}" for end in ("", ".index.json"))
    return plain.recognises(path) and any(file.exists() for file in weights)


def _read(folder: Path) -> Reading:
    # Earlier versions wrote no description, and quantized nothing.
    form = exported.opened(str(folder)).form if exported.recognises(str(folder)) else None
    tensors = read_folder(folder, WEIGHTS)
    if form is None:
        return plain.read(folder, tensors)
    return plain.read(folder, tensors, lambda prepared: _float32(prepared, tensors, form, folder))


def _float32(
    prepared: Prepared, tensors: Mapping[str, Tensor], form: Form, folder: Path
) -> Mapping[str, Tensor]:
    inputs = kernels(prepared.model, prepared.run.model)
    shapes = unrolled_shapes(prepared.shapes.params)
    return dequantizing(tensors, inputs, shapes, form, str(folder))


def _write(trained: Trained, losses: Losses) -> Writing:
    def write(out: Path, tensors: Any, progress: Any) -> Any:
        written = write_folder(out, WEIGHTS, tensors, progress, SHARD_BYTES)
        plain.write_files(out, plain.files(trained))
        export_manifest.write(out, "safetensors", trained, {})
        return written

    return Writing(plain.rules(trained.parameters), {}, write)


FORMAT = Format("a folder with parameters.safetensors of vljax", _recognises, _read, _write)
