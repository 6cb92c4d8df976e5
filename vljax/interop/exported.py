"""Folders that `vljax export` wrote under vljax's own names: `export.json` and the arrays.

`export.json` says what such a folder holds, with a digest of every other file; it is written last.
Folders of safetensors, of npz and of programs (StableHLO, ONNX) have one.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

import vljax
from vljax.config import UserError
from vljax.files import parse_json, refuse_lfs_pointer
from vljax.interop.export_plan import TrainedModel
from vljax.interop.files.npz import read_npz
from vljax.interop.files.safetensors import read_folder
from vljax.interop.files.tensors import Tensor, check_float, listed
from vljax.interop.foreign_config import to_json
from vljax.interop.new_folder import MARK
from vljax.interop.quantized import SCALE, kernels, read_kernel
from vljax.models.assembly import Model, Variables
from vljax.models.parameters import filled, unrolled_shapes
from vljax.models.quantization.forms import FORMS, Form

MANIFEST = "export.json"
VERSION = 1
WEIGHTS = "parameters"
"""The name of the file of arrays, without its ending."""
NPZ_WEIGHTS = f"{WEIGHTS}.npz"
_REMEDY = "export the model again"


def write_manifest(
    folder: Path, format_name: str, trained: TrainedModel, more: Mapping[str, Any]
) -> None:
    """Writes `export.json` into a folder that is otherwise complete.

    Args:
      folder: the folder to describe.
      format_name: a key of `formats.FORMATS`.
      trained: the checkpoint.
      more: entries that only this format has.
    """
    paths = sorted(file for file in folder.rglob("*") if file.is_file() and file.name != MARK)
    files = {
        file.relative_to(folder).as_posix(): {
            "bytes": file.stat().st_size,
            "sha256": _digest(file),
        }
        for file in paths
    }
    content = {
        "version": VERSION,
        "vljax": vljax.__version__,
        "format": format_name,
        "step": trained.step,
        "dtype": trained.dtype,
        "quantized": trained.quantize,
        **more,
        "files": files,
    }
    (folder / MANIFEST).write_bytes(to_json(content))


def _digest(file: Path) -> str:
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def recognises(path: str) -> bool:
    """Whether a path is a local folder with an `export.json`."""
    return "://" not in path and (Path(os.path.expanduser(path)) / MANIFEST).is_file()


@dataclass(frozen=True)
class ExportedFolder:
    """An intact folder of safetensors or npz."""

    folder: Path
    step: int
    """The step of the checkpoint that it was made from."""
    form: Form | None
    """How kernels are quantized; None if they are not."""

    def read_file(self, name: str) -> bytes:
        """The content of a file. Raises UserError if it is missing."""
        try:
            return (self.folder / name).read_bytes()
        except FileNotFoundError:
            raise UserError(f"{self.folder}: {name} is missing; {_REMEDY}") from None

    def variables(self, model: Model) -> Variables:
        """All arrays in the model's scan layout and in their stored data types.

        Raises:
          UserError: if an array is missing, is left over, or does not fit.
        """
        npz = self.folder / NPZ_WEIGHTS
        tensors: Mapping[str, Tensor] = (
            read_npz(npz) if npz.exists() else read_folder(self.folder, WEIGHTS)
        )
        inputs = {} if self.form is None else kernels(model)
        shapes = model.shapes
        own = unrolled_shapes(shapes.params) | unrolled_shapes(shapes.state)

        def read(path: str, _: Any) -> Any:
            return self._read(tensors, path, own[path], inputs.get(path))

        params, state = filled(shapes.params, read), filled(shapes.state, read)
        known = own.keys() | {path + SCALE for path in inputs}
        if left := sorted(tensors.keys() - known):
            raise UserError(f"{self.folder} holds arrays that this model lacks: {listed(left)}")
        return jax.tree.map(jnp.asarray, Variables(params, state))

    def _read(
        self, tensors: Mapping[str, Tensor], path: str, shape: tuple[int, ...], inputs: int | None
    ) -> Any:
        source = str(self.folder)
        if self.form is not None and inputs is not None:
            return read_kernel(tensors, path, shape, inputs, self.form, source)
        if path not in tensors:
            raise UserError(f"{source} lacks {path!r}")
        tensor = tensors[path]
        check_float(path, tensor.dtype, source)
        if tuple(tensor.shape) != shape:
            found = list(tensor.shape)
            raise UserError(
                f"{source}: {path!r} has the shape {found}, the model asks for {list(shape)}"
            )
        return tensor.read()


def open_folder(path: str) -> ExportedFolder:
    """The folder at a path, after comparing the digest of each file.

    Raises:
      UserError: if a file is damaged or missing, or another version of vljax is needed.
    """
    folder = Path(os.path.expanduser(path))
    content = _read_manifest(folder)
    quantized = content["quantized"]
    if quantized is not None and quantized not in FORMS:
        raise UserError(f"{folder}: this vljax cannot read weights quantized as {quantized!r}")
    return ExportedFolder(folder, content["step"], None if quantized is None else FORMS[quantized])


def _read_manifest(folder: Path) -> dict[str, Any]:
    file = folder / MANIFEST
    refuse_lfs_pointer(file)
    try:
        content: dict[str, Any] = parse_json(file.read_bytes())
        version, files = content["version"], dict(content["files"])
        digests = {name: str(entry["sha256"]) for name, entry in files.items()}
        content["step"] = int(content["step"])
        content["quantized"] = content["quantized"] or None
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{file} is damaged ({error!r}); {_REMEDY}") from error
    if version != VERSION:
        raise UserError(f"{file}: this vljax cannot read version {version}")
    for name, digest in digests.items():
        if not (folder / name).is_file():
            raise UserError(f"{folder}: {name} is missing; {_REMEDY}")
        refuse_lfs_pointer(folder / name)
        if _digest(folder / name) != digest:
            raise UserError(f"{folder}: {name} differs from its digest; {_REMEDY}")
    return content
