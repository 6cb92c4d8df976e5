"""A folder that `vljax export` made with our own names, as something to compute with."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from vljax.config import UserError
from vljax.interop import export_manifest
from vljax.interop.quantized import SCALE, kernels, read_kernel
from vljax.interop.safetensors_files import read_folder
from vljax.interop.tensors import Tensor, check_float
from vljax.models.assembly import Model, ModelConfig, Variables, parameter_shapes
from vljax.models.parameters import filled, unrolled_shapes
from vljax.models.quantization.forms import FORMS, Form

WEIGHTS = "parameters"
_SHOWN = 3


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

    def variables(self, model: Model, config: ModelConfig) -> Variables:
        """All arrays in the layout of the model, in the formats that they are stored in.

        Raises:
          UserError: if one is missing, is left over, or does not fit.
        """
        tensors = read_folder(self.folder, WEIGHTS)
        inputs = {} if self.form is None else kernels(model, config)
        shapes = parameter_shapes(model, config)
        own = unrolled_shapes(shapes.params) | unrolled_shapes(shapes.state)

        def read(path: str, _: Any) -> Any:
            return self._read(tensors, path, own[path], inputs.get(path))

        params, state = filled(shapes.params, read), filled(shapes.state, read)
        known = own.keys() | {path + SCALE for path in inputs}
        if left := sorted(tensors.keys() - known):
            more = f" and {len(left) - _SHOWN} more" if len(left) > _SHOWN else ""
            names = ", ".join(map(repr, left[:_SHOWN]))
            raise UserError(f"{self.folder} holds what this model has no place for: {names}{more}")
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


def recognises(path: str) -> bool:
    """Whether a path is such a folder."""
    return "://" not in path and export_manifest.recognises(Path(path).expanduser())


def opened(path: str) -> Exported:
    """The folder, once every digest in it agrees.

    Raises:
      UserError: if it is damaged, or of a version of vljax that is unknown here.
    """
    folder = Path(path).expanduser()
    content = export_manifest.verified(folder)
    quantized = content["quantized"]
    if quantized is not None and quantized not in FORMS:
        raise UserError(f"{folder}: weights as {quantized!r} are unknown to this vljax")
    return Exported(folder, content["step"], None if quantized is None else FORMS[quantized])
