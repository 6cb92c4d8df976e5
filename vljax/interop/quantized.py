"""Quantized kernels in safetensors files: which kernels are quantized, written and read.

A kernel `PATH` is stored as integers under its own name, with float32 scales under `PATH_scale`
(see `models/quantization/quantized_kernel.py`). Two int4 numbers share a byte: row-major order, the
first one in the low half.
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
from vljax.interop.files.tensors import Lazy, Tensor
from vljax.models.assembly import Model
from vljax.models.parameters import canonical_paths, leaves
from vljax.models.quantization.forms import Form
from vljax.models.quantization.quantized_kernel import QuantizedKernel, dequantized, quantize

SCALE = "_scale"
Shape = tuple[int, ...]


def kernels(model: Model) -> dict[str, int]:
    """The unrolled paths of kernels to quantize, each with its number of input axes.

    These are the kernels of linear maps. Convolutions (also the patch embedding), token and
    position tables, norms, biases and learned scalars are never quantized.
    """
    names = dict(leaves(model.axes))
    found: dict[str, int] = {}
    for keys, leaf in leaves(model.shapes.params):
        axes = [axis for axis in names[keys] if axis != "layers"]
        if keys[-1] == "kernel" and axes[0] != "patch":
            inputs = 2 if axes[0] == "heads" else 1
            found |= dict.fromkeys(canonical_paths(keys, leaf.shape), inputs)
    return found


def quantized(
    arrays: Mapping[str, Lazy], own: Mapping[str, Tensor], inputs: Mapping[str, int], form: Form
) -> dict[str, Lazy]:
    """The arrays with kernels quantized. Each kernel is read and quantized once.

    Args:
      arrays: all arrays by our own names, in the data type of the export.
      own: the same arrays as stored in the checkpoint, so that kernels are not rounded twice.
      inputs: see `kernels`.
      form: how to quantize.
    """
    made: dict[str, Lazy] = {}
    for path, array in arrays.items():
        if path not in inputs:
            made[path] = array
            continue
        parts = functools.cache(functools.partial(_parts, own[path], inputs[path], form))
        values, scale = _stored_shapes(array.shape, inputs[path], form)
        made[path] = Lazy(values, _dtype(form), lambda parts=parts: parts()[0])  # type: ignore[misc]
        # The scale is written after the values, so reading it drops the cached arrays.
        made[path + SCALE] = Lazy(scale, np.dtype(np.float32), functools.partial(_scale, parts))
    return made


def _parts(tensor: Tensor, inputs: int, form: Form) -> tuple[np.ndarray, np.ndarray]:
    kernel = quantize(jnp.asarray(tensor.read(), jnp.float32), inputs, form)
    values = np.asarray(kernel.values)
    return packed(values) if form.bits == 4 else values, np.asarray(kernel.scale)


def _scale(parts: Any) -> np.ndarray:
    scale: np.ndarray = parts()[1]
    parts.cache_clear()
    return scale


def _dtype(form: Form) -> np.dtype[Any]:
    return np.dtype(np.uint8 if form.bits == 4 else np.int8)


def _stored_shapes(kernel: Shape, inputs: int, form: Form) -> tuple[Shape, Shape]:
    """The stored shapes of the values and of the scales."""
    rows, columns = math.prod(kernel[:inputs]), math.prod(kernel[inputs:])
    values = (-(-rows * columns // 2),) if form.bits == 4 else kernel
    return values, (form.groups(rows), columns)


def packed(values: Int[np.ndarray, "..."]) -> UInt8[np.ndarray, " bytes"]:
    """Integers in [-8, 7], two in a byte. If their count is odd, the last half byte is 0.

    >>> [hex(byte) for byte in packed(np.array([1, -1, 7]))]
    ['0xf1', '0x7']
    """
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
    """A quantized kernel from a file, in host memory.

    Raises:
      UserError: if it is missing, or its stored shape or data type is not that of the form.
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
                f"{source}: {name!r} is {found.dtype}{list(found.shape)}, but has to be"
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
    """The tensors of a quantized file with kernels converted back to float32."""

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
