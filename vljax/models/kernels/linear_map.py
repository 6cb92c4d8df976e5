"""Products of features and kernels, whatever axes they have."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


def linear_map(
    x: Float[Array, "..."], kernel: Float[Array, "..."], inputs: int, by_rows: bool = False
) -> Float[Array, "..."]:
    """Contracts the last axes of `x` with the first of `kernel`.

    Args:
      x: features.
      kernel: shape (*input axes, *output axes).
      inputs: how many axes are contracted.
      by_rows: whether it is computed as one product of two matrices, in the backward pass too. On
        CPU, XLA otherwise writes transposed copies of activations for the gradient of the kernel.
    """
    if not by_rows:
        return jnp.tensordot(x, kernel, inputs)
    batch, outputs = x.shape[: x.ndim - inputs], kernel.shape[inputs:]
    rows = x.reshape(-1, math.prod(kernel.shape[:inputs]))
    y = _rows_by_matrix(rows, kernel.reshape(-1, math.prod(outputs)))
    return y.reshape(*batch, *outputs)


@jax.custom_vjp
def _rows_by_matrix(
    rows: Float[Array, "rows inputs"], matrix: Float[Array, "inputs outputs"]
) -> Float[Array, "rows outputs"]:
    return rows @ matrix


def _forward(rows: Array, matrix: Array) -> tuple[Array, tuple[Array, Array]]:
    return rows @ matrix, (rows, matrix)


def _backward(saved: tuple[Array, Array], gradient: Array) -> tuple[Array, Array]:
    rows, matrix = saved
    return gradient @ matrix.T, _sum_of_outer_products(rows, gradient)


def _sum_of_outer_products(
    left: Float[Array, "rows inputs"], right: Float[Array, "rows outputs"]
) -> Float[Array, "inputs outputs"]:
    """The transposed `left` times `right`, the smaller of them transposed in memory.

    XLA hands a product that contracts the rows of both to a slower library.
    """
    if left.shape[1] > right.shape[1]:
        return (jax.lax.optimization_barrier(right.T) @ left).T
    return jax.lax.optimization_barrier(left.T) @ right


_rows_by_matrix.defvjp(_forward, _backward)
