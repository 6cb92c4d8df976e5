"""Quantized kernels of linear maps, and products of features with them, by qwix.

qwix can also quantize a Flax module from outside, by replacing functions of JAX while the module
runs. That would silently miss products inside compiled functions and custom gradients, so only its
arrays and products are used.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from vljax.config import UserError
from vljax.models.kernels.linear import LinearKernel, tensordot
from vljax.models.numerics import widened
from vljax.models.quantization.forms import Form


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class QuantizedKernel:
    """A kernel as whole numbers with scales; it replaces the array in the parameter tree.

    In a scanned stack, both arrays have the layers as an additional first axis.
    """

    values: Array
    """int8 or int4, of the kernel's own shape."""
    scale: Array
    """float32[groups, outputs]: the kernel is seen as a matrix of inputs and outputs, and the
    inputs are divided into groups of equal size."""
    dynamic: bool = field(metadata={"static": True})
    """See `forms.Form`."""


def quantize(kernel: Float[Array, "..."], inputs: int, form: Form) -> QuantizedKernel:
    """A kernel quantized symmetrically, with an error of at most half a scale in each value.

    In each group, scale = max |kernel| / (top + 1/2). Values are kernel / scale, rounded to even
    and clipped to [-top - 1, top].

    Args:
      kernel: shape (*input axes, *output axes).
      inputs: number of input axes.
      form: bits and groups.

    Raises:
      UserError: if qwix is not installed.
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


def quantized_linear(
    x: Float[Array, "..."],
    kernel: QuantizedKernel,
    inputs: int,
    linear: LinearKernel = tensordot,
) -> Float[Array, "..."]:
    """A linear map with a quantized kernel; the result has the type of `x`.

    If only weights are quantized, `linear` multiplies the features by the dequantized kernel.

    If features are quantized too (`kernel.dynamic`), each row of `x` gets 8 bits and a scale by its
    own largest value. The product is one of whole numbers, summed in int32 and scaled in float32.
    """
    if not kernel.dynamic:
        return linear(x, dequantized(kernel).astype(x.dtype), inputs)
    shape = kernel.values.shape
    rows = widened(x).reshape(-1, math.prod(shape[:inputs]))
    qwix = _qwix()
    quantized_rows = qwix.quantize(rows, jnp.int8, channelwise_axes=[0])
    y = qwix.dot_general(quantized_rows, _matrix(kernel), (((1,), (0,)), ((), ())))
    return y.reshape(*x.shape[: x.ndim - inputs], *shape[inputs:]).astype(x.dtype)


def _matrix(kernel: QuantizedKernel) -> Any:
    """The kernel as an array of qwix: a matrix whose scales have an axis for each of its own."""
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
