"""A folder that `vljax export --format safetensors` made, as something to compute with.

`export.json` says what the weights are, and holds a digest of every other file.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from vljax.config import UserError
from vljax.interop.quantized import SCALE, kernels, read_kernel
from vljax.interop.safetensors_files import read_folder
from vljax.interop.tensors import Tensor, check_float
from vljax.models.assembly import Model, ModelConfig, parameter_shapes
from vljax.models.layout import canonical_paths, leaves
from vljax.models.quantization import FORMS, Form

NAME, WEIGHTS, ENVIRONMENT = "export.json", "parameters", "environment.json"
_VERSION = 1
_SHOWN = 3


def describe(folder: Path, step: int, quantized: str | None, files: Mapping[str, bytes]) -> None:
    """Writes `export.json`.

    Args:
      folder: holds the weights and nothing else yet.
      step: of the checkpoint.
      quantized: one of `quantization.FORMS`, or None.
      files: what is going to stand beside the weights.
    """
    digests = {name: hashlib.sha256(content).hexdigest() for name, content in files.items()}
    digests |= {file.name: _digest(file) for file in folder.glob(f"{WEIGHTS}*")}
    content = {"version": _VERSION, "step": step, "quantized": quantized, "sha256": digests}
    (folder / NAME).write_text(json.dumps(content, indent=1, sort_keys=True) + "\n")


def _digest(file: Path) -> str:
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


@dataclass(frozen=True)
class Exported:
    """An intact folder."""

    folder: Path
    step: int
    """Of the checkpoint that it was made of."""
    form: Form | None
    """How kernels are quantized; None: they are not."""

    def read_file(self, name: str) -> bytes:
        """The content of a file. Raises UserError if it is missing."""
        try:
            return (self.folder / name).read_bytes()
        except FileNotFoundError:
            raise UserError(f"{self.folder}: {name} is missing; export the model again") from None

    def parameters(self, model: Model, config: ModelConfig) -> dict[str, Any]:
        """The parameters in the layout of the model, in the formats that they are stored in.

        Raises:
          UserError: if one is missing, is left over, or does not fit.
        """
        tensors = read_folder(self.folder, WEIGHTS)
        inputs = {} if self.form is None else kernels(model, config)
        shapes = parameter_shapes(model, config).params
        tree: dict[str, Any] = {}
        known: set[str] = set()
        for keys, leaf in leaves(shapes):
            paths = canonical_paths(keys, leaf.shape)
            scanned = paths != ["/".join(keys)]
            shape = tuple(leaf.shape[1:] if scanned else leaf.shape)
            read = [self._read(tensors, path, shape, inputs.get(path)) for path in paths]
            known |= {name for path in paths for name in (path, path + SCALE)}
            node = tree
            for key in keys[:-1]:
                node = node.setdefault(key, {})
            node[keys[-1]] = jax.tree.map(_stacked, *read) if scanned else read[0]
        if left := sorted(tensors.keys() - known):
            more = f" and {len(left) - _SHOWN} more" if len(left) > _SHOWN else ""
            names = ", ".join(map(repr, left[:_SHOWN]))
            raise UserError(f"{self.folder} holds what this model has no place for: {names}{more}")
        return jax.tree.map(jnp.asarray, tree)

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


def _stacked(*layers: np.ndarray) -> np.ndarray:
    return np.stack(layers)


def recognises(path: str) -> bool:
    """Whether a path is such a folder."""
    return "://" not in path and (Path(path).expanduser() / NAME).is_file()


def opened(path: str) -> Exported:
    """The folder, once every digest in it agrees.

    Raises:
      UserError: if it is damaged, or of a version of vljax that is unknown here.
    """
    folder = Path(path).expanduser()
    file = folder / NAME
    try:
        content = json.loads(file.read_bytes())
        version, digests = content["version"], dict(content["sha256"])
        step, quantized = int(content["step"]), content["quantized"]
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{file} is damaged ({error!r}); export the model again") from error
    if version != _VERSION or quantized not in (None, *FORMS):
        raise UserError(f"{file}: version {version}, {quantized!r} is unknown to this vljax")
    for name, digest in digests.items():
        if not (folder / name).is_file():
            raise UserError(f"{folder}: {name} is missing; export the model again")
        if _digest(folder / name) != digest:
            raise UserError(f"{folder}: {name} differs from its digest; export the model again")
    return Exported(folder, step, None if quantized is None else FORMS[quantized])
