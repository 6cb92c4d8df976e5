"""Linear maps: values and gradients of both ways of computing them."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vljax.models.kernels.linear import LinearKernel, matmul_2d, tensordot


@pytest.mark.parametrize(
    ("x_shape", "kernel_shape", "inputs", "formula"),
    [
        ((2, 3, 8), (8, 4, 5), 1, "btd,dhk->bthk"),
        ((2, 3, 4, 5), (4, 5, 8), 2, "bthk,hkd->btd"),
        ((3, 8), (8, 6), 1, "td,dm->tm"),
    ],
)
@pytest.mark.parametrize("linear", [tensordot, matmul_2d])
def test_it_contracts_the_given_number_of_axes(
    x_shape: tuple[int, ...],
    kernel_shape: tuple[int, ...],
    inputs: int,
    formula: str,
    linear: LinearKernel,
) -> None:
    """Against float64 NumPy; sums of 8 and 20 products leave 1e-5 of float32."""
    random = np.random.default_rng(0)
    x, kernel = random.standard_normal(x_shape), random.standard_normal(kernel_shape)
    expected = np.einsum(formula, x, kernel)
    upstream = random.standard_normal(expected.shape)

    def total(x: jax.Array, kernel: jax.Array) -> tuple[jax.Array, jax.Array]:
        y = linear(x, kernel, inputs)
        return jnp.sum(y * upstream.astype(np.float32)), y

    single = (jnp.asarray(x, jnp.float32), jnp.asarray(kernel, jnp.float32))
    (_, y), gradients = jax.value_and_grad(total, (0, 1), has_aux=True)(*single)
    np.testing.assert_allclose(y, expected, rtol=0, atol=1e-5)
    terms, result = formula.split("->")
    left, right = terms.split(",")
    to_x = np.einsum(f"{result},{right}->{left}", upstream, kernel)
    to_kernel = np.einsum(f"{left},{result}->{right}", x, upstream)
    for gradient, exact in zip(gradients, (to_x, to_kernel), strict=True):
        np.testing.assert_allclose(gradient, exact, rtol=0, atol=1e-5)


def test_matmul_2d_writes_no_transposed_activations() -> None:
    """The gradient has its two products and transposes only what they read."""
    x, kernel = jnp.ones((4, 6, 8)), jnp.ones((8, 2, 4))

    def gradients(x: jax.Array, kernel: jax.Array, dy: jax.Array) -> tuple[jax.Array, ...]:
        made: tuple[jax.Array, ...] = jax.vjp(lambda *a: matmul_2d(*a, 1), x, kernel)[1](dy)
        return made

    program = str(jax.make_jaxpr(gradients)(x, kernel, jnp.ones((4, 6, 2, 4))))
    # One of the kernel (for dx), one of the rows (for dW).
    assert program.count("dot_general") == 3
    assert program.count("transpose") == 2
