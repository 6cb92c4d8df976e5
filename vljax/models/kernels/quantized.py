"""Quantized kernels, and the products of features with them, by qwix.

qwix can also quantize a Flax module from outside, by replacing functions of JAX while it runs. Its
arrays and products are used here instead: what is replaced that way misses products inside compiled
functions and written-out gradients, without a word.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from vljax.config import UserError
from vljax.models.compute import widened
from vljax.models.kernels.linear_map import linear_map
from vljax.models.kernels.quantization import Form


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class QuantizedKernel:
    """A kernel as whole numbers and their scales; it stands in the place of the parameter.

    Of a scanned stack, both arrays have a first axis more, the layers.
    """

    values: Array
    """int8 or int4, of the kernel's own shape."""
    scale: Array
    """float32[groups, outputs], of the matrix that the kernel is: its inputs are one axis, in
    groups of equal size, and its outputs another."""
    dynamic: bool = field(metadata={"static": True})
    """See `quantization.Form`."""


def quantize(kernel: Float[Array, "..."], inputs: int, form: Form) -> QuantizedKernel:
    """The kernel with scale = max |kernel| / (top + 1/2) in each group, values = kernel / scale,
    rounded to even and clipped to [-top - 1, top]. No value is off by more than half its scale.

    Args:
      kernel: shape (*input axes, *output axes).
      inputs: how many axes are inputs.
      form: bits and groups.
    """
    rows = math.prod(kernel.shape[:inputs])
    group = rows // form.groups(rows)
    array = _qwix().quantize(
        kernel.reshape(rows, -1),
        jnp.int4 if form.bits == 4 else jnp.int8,
        channelwise_axes=[1],
        tiled_axes={0: group},
        scale_dtype=jnp.float32,
    )
    return QuantizedKernel(array.qvalue.reshape(kernel.shape), array.scale, form.dynamic)


def dequantized(kernel: QuantizedKernel) -> Float[Array, "..."]:
    """The kernel in float32."""
    matrix: Array = _qwix().dequantize(_matrix(kernel))
    return matrix.reshape(kernel.values.shape)


def quantized_map(
    x: Float[Array, "..."], kernel: QuantizedKernel, inputs: int, by_rows: bool = False
) -> Float[Array, "..."]:
    """`linear_map` with a quantized kernel.

    Weights alone are quantized: the product is one of floating-point numbers, in the type of `x`.
    Features too (`kernel.dynamic`): each row of `x` is quantized to 8 bits by its own largest
    value, the product is one of whole numbers summed in int32, and is scaled in float32.
    """
    if not kernel.dynamic:
        return linear_map(x, dequantized(kernel).astype(x.dtype), inputs, by_rows)
    shape = kernel.values.shape
    rows = widened(x).reshape(-1, math.prod(shape[:inputs]))
    qwix = _qwix()
    whole = qwix.quantize(rows, jnp.int8, channelwise_axes=[0])
    y = qwix.dot_general(whole, _matrix(kernel), (((1,), (0,)), ((), ())))
    return y.reshape(*x.shape[: x.ndim - inputs], *shape[inputs:]).astype(x.dtype)


def _matrix(kernel: QuantizedKernel) -> Any:
    """As qwix has it, with scales that go with the values axis by axis."""
    values = kernel.values.reshape(-1, kernel.scale.shape[1])
    return _qwix().QArray(values, kernel.scale)


def _qwix() -> Any:
    try:
        import qwix
    except ImportError as error:
        raise UserError(
            f"quantized weights need the package qwix ({error}); pip install 'vljax[quantize]'"
        ) from error
    return qwix
