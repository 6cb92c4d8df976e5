"""Quantized kernels in files: which they are, made of parameters and read again.

A kernel `PATH` is stored as whole numbers under its own name, and float32 scales under `PATH_scale`
(`models/quantized.py`). int4 stands two in a byte, in row-major order, the first in the low half.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import ml_dtypes
import numpy as np
from jaxtyping import Int, UInt8

from vljax.config import UserError
from vljax.interop.tensors import Lazy, Tensor
from vljax.models.assembly import Model, ModelConfig, parameter_shapes
from vljax.models.parameters import canonical_paths, leaves
from vljax.models.quantization.forms import Form
from vljax.models.quantization.quantized_kernel import QuantizedKernel, dequantized, quantize

SCALE = "_scale"
Shape = tuple[int, ...]


def kernels(model: Model, config: ModelConfig) -> dict[str, int]:
    """The kernels that are quantized, and how many of their axes are inputs, by unrolled paths.

    They are those of linear maps. Convolutions, among them the embedding of patches, tables of
    tokens and positions, norms, biases and learned scalars stay as they are.
    """
    names = dict(leaves(model.axes))
    found: dict[str, int] = {}
    for keys, leaf in leaves(parameter_shapes(model, config).params):
        axes = [axis for axis in names[keys] if axis != "layers"]
        if keys[-1] == "kernel" and axes[0] != "patch":
            inputs = 2 if axes[0] == "heads" else 1
            found |= dict.fromkeys(canonical_paths(keys, leaf.shape), inputs)
    return found


def quantized(
    made: Mapping[str, Lazy], own: Mapping[str, Tensor], inputs: Mapping[str, int], form: Form
) -> dict[str, Lazy]:
    """The arrays with kernels quantized, each kernel read and quantized once.

    Args:
      made: all arrays, by our own names.
      own: the same as they are stored, not rounded to another format.
      inputs: see `kernels`.
      form: how to quantize.
    """
    arrays: dict[str, Lazy] = {}
    for path, array in made.items():
        if path not in inputs:
            arrays[path] = array
            continue
        parts = functools.cache(functools.partial(_parts, own[path], inputs[path], form))
        values, scale = _stored_shapes(array.shape, inputs[path], form)
        arrays[path] = Lazy(values, _dtype(form), lambda parts=parts: parts()[0])  # type: ignore[misc]
        # The last to ask: after it nothing holds the arrays.
        arrays[path + SCALE] = Lazy(scale, np.dtype(np.float32), functools.partial(_last, parts))
    return arrays


def _parts(tensor: Tensor, inputs: int, form: Form) -> tuple[np.ndarray, np.ndarray]:
    kernel = quantize(jnp.asarray(tensor.read(), jnp.float32), inputs, form)
    values = np.asarray(kernel.values)
    return packed(values) if form.bits == 4 else values, np.asarray(kernel.scale)


def _last(parts: Any) -> np.ndarray:
    scale: np.ndarray = parts()[1]
    parts.cache_clear()
    return scale


def _dtype(form: Form) -> np.dtype[Any]:
    return np.dtype(np.uint8 if form.bits == 4 else np.int8)


def _stored_shapes(kernel: Shape, inputs: int, form: Form) -> tuple[Shape, Shape]:
    """Of the values and of the scales."""
    rows, columns = math.prod(kernel[:inputs]), math.prod(kernel[inputs:])
    values = (-(-rows * columns // 2),) if form.bits == 4 else kernel
    return values, (form.groups(rows), columns)


def packed(values: Int[np.ndarray, "..."]) -> UInt8[np.ndarray, " bytes"]:
    """Numbers in [-8, 7], two in a byte; of an odd number, the last half is 0."""
    halves = values.astype(np.int8).reshape(-1).view(np.uint8) & 0xF
    halves = np.pad(halves, (0, len(halves) % 2))
    return halves[::2] | halves[1::2] << 4


def unpacked(stored: UInt8[np.ndarray, " bytes"], shape: Shape) -> Int[np.ndarray, "..."]:
    """The inverse of `packed`, as int8."""
    halves = np.stack([stored & 0xF, stored >> 4], axis=-1).reshape(-1)[: math.prod(shape)]
    return ((halves ^ 8).astype(np.int8) - 8).reshape(shape)


def read_kernel(
    tensors: Mapping[str, Tensor], path: str, shape: Shape, inputs: int, form: Form, source: str
) -> QuantizedKernel:
    """A kernel of a file, on the host.

    Raises:
      UserError: if it is missing, or stored otherwise than the form says.
    """
    wanted = zip(
        (path, path + SCALE),
        _stored_shapes(shape, inputs, form),
        (_dtype(form), np.dtype(np.float32)),
        strict=True,
    )
    for name, expected, dtype in wanted:
        found = tensors.get(name)
        if found is None:
            raise UserError(f"{source} lacks {name!r}")
        if (tuple(found.shape), found.dtype) != (expected, dtype):
            raise UserError(
                f"{source}: {name!r} is {found.dtype}{list(found.shape)}, and has to be"
                f" {dtype}{list(expected)}"
            )
    values = tensors[path].read()
    if form.bits == 4:
        values = unpacked(values, shape).astype(ml_dtypes.int4)
    return QuantizedKernel(values, tensors[path + SCALE].read(), form.dynamic)  # type: ignore[arg-type]


def dequantizing(
    tensors: Mapping[str, Tensor],
    inputs: Mapping[str, int],
    shapes: Mapping[str, Shape],
    form: Form,
    source: str,
) -> dict[str, Tensor]:
    """The tensors of a quantized file as one of float32 kernels would have them."""

    def tensor(path: str) -> Lazy:
        def make() -> np.ndarray:
            kernel = read_kernel(tensors, path, shapes[path], inputs[path], form, source)
            return np.asarray(dequantized(_on_device(kernel)))

        return Lazy(shapes[path], np.dtype(np.float32), make)

    scales = {path + SCALE for path in inputs}
    kept = {name: tensor for name, tensor in tensors.items() if name not in scales}
    return kept | {path: tensor(path) for path in inputs if path in tensors}


def _on_device(kernel: QuantizedKernel) -> QuantizedKernel:
    return QuantizedKernel(jnp.asarray(kernel.values), jnp.asarray(kernel.scale), kernel.dynamic)
