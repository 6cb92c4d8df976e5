"""Linear maps: products of features and kernels with any number of axes."""

from __future__ import annotations

import math
from typing import Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


@runtime_checkable
class LinearKernel(Protocol):
    """Contracts the last `inputs` axes of `x` with the first ones of `kernel`."""

    def __call__(
        self, x: Float[Array, "..."], kernel: Float[Array, "..."], inputs: int
    ) -> Float[Array, "..."]: ...


def tensordot(
    x: Float[Array, "..."], kernel: Float[Array, "..."], inputs: int
) -> Float[Array, "..."]:
    """The contraction as XLA computes it.

    Args:
      x: features.
      kernel: shape (*input axes, *output axes).
      inputs: number of axes that are contracted.
    """
    return jnp.tensordot(x, kernel, inputs)


def matmul_2d(
    x: Float[Array, "..."], kernel: Float[Array, "..."], inputs: int
) -> Float[Array, "..."]:
    """`tensordot` as one product of two matrices, in the backward pass too.

    On CPU, XLA otherwise writes transposed copies of activations for the gradient of the kernel. In
    a trial, the step of the quickstart took 5 % longer with `tensordot`.
    """
    batch, outputs = x.shape[: x.ndim - inputs], kernel.shape[inputs:]
    rows = x.reshape(-1, math.prod(kernel.shape[:inputs]))
    y = _matmul(rows, kernel.reshape(-1, math.prod(outputs)))
    return y.reshape(*batch, *outputs)


@jax.custom_vjp
def _matmul(
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
    """The transposed `left` times `right`."""
    # XLA gives a product that contracts the first axes of both matrices to Eigen, which is slower
    # than the library it has for all others. So the smaller matrix is transposed in memory first;
    # the barrier keeps XLA from merging the transpose with the product again.
    if left.shape[1] > right.shape[1]:
        return (jax.lax.optimization_barrier(right.T) @ left).T
    return jax.lax.optimization_barrier(left.T) @ right


_matmul.defvjp(_forward, _backward)
