"""A linear map by rows is the contraction that it stands for, values and gradients."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vljax.models.kernels.linear_map import linear_map


@pytest.mark.parametrize(
    ("x_shape", "kernel_shape", "inputs", "formula"),
    [
        ((2, 3, 8), (8, 4, 5), 1, "btd,dhk->bthk"),
        ((2, 3, 4, 5), (4, 5, 8), 2, "bthk,hkd->btd"),
        ((3, 8), (8, 6), 1, "td,dm->tm"),
    ],
)
@pytest.mark.parametrize("by_rows", [False, True])
def test_it_contracts_the_axes_that_are_named(
    x_shape: tuple[int, ...],
    kernel_shape: tuple[int, ...],
    inputs: int,
    formula: str,
    by_rows: bool,
) -> None:
    """Against float64 NumPy; sums of 8 and 20 products leave 1e-5 of float32."""
    random = np.random.default_rng(0)
    x, kernel = random.standard_normal(x_shape), random.standard_normal(kernel_shape)
    expected = np.einsum(formula, x, kernel)
    upstream = random.standard_normal(expected.shape)

    def total(x: jax.Array, kernel: jax.Array) -> tuple[jax.Array, jax.Array]:
        y = linear_map(x, kernel, inputs, by_rows)
        return jnp.sum(y * upstream.astype(np.float32)), y

    single = (jnp.asarray(x, jnp.float32), jnp.asarray(kernel, jnp.float32))
    (_, y), slopes = jax.value_and_grad(total, (0, 1), has_aux=True)(*single)
    np.testing.assert_allclose(y, expected, rtol=0, atol=1e-5)
    terms, result = formula.split("->")
    left, right = terms.split(",")
    to_x = np.einsum(f"{result},{right}->{left}", upstream, kernel)
    to_kernel = np.einsum(f"{left},{result}->{right}", x, upstream)
    for slope, exact in zip(slopes, (to_x, to_kernel), strict=True):
        np.testing.assert_allclose(slope, exact, rtol=0, atol=1e-5)


def test_by_rows_nothing_is_transposed_on_the_way() -> None:
    """What it is for: the compiled gradient holds its two products and no copy of activations."""
    x, kernel = jnp.ones((4, 6, 8)), jnp.ones((8, 2, 4))

    def slopes(x: jax.Array, kernel: jax.Array, dy: jax.Array) -> tuple[jax.Array, ...]:
        made: tuple[jax.Array, ...] = jax.vjp(lambda *a: linear_map(*a, 1, True), x, kernel)[1](dy)
        return made

    program = str(jax.make_jaxpr(slopes)(x, kernel, jnp.ones((4, 6, 2, 4))))
    # Of the kernel (for dx) and of the rows (for dW): both are read by the product, not written.
    assert program.count("dot_general") == 3
    assert program.count("transpose") == 2
