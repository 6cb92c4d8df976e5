"""Fusions of vectors against their formulas in float64."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.models.fusion.streams import linear, made, stream
from vljax.models.compute import Call
from vljax.models.fusion import Concatenation, Mfb, Mutan, Product, Sum
from vljax.models.fusion.bilinear import signed_square_root
from vljax.models.node import Node

STREAMS = ("image", "question", "sound")
INPUTS = {
    "image": stream(3, 4, 6),
    "question": stream(3, 5, 8, 1),
    "sound": stream(3, 2, 7, 2)._replace(pooled=None),  # then the mean of its tokens
}
VECTORS = {
    "image": INPUTS["image"].pooled,
    "question": INPUTS["question"].pooled,
    "sound": np.asarray(INPUTS["sound"].tokens, np.float64).mean(1),
}


def projected(params: Any) -> list[np.ndarray]:
    return [linear(params["project"][name], VECTORS[name]) for name in STREAMS]


def compare(node: Node, expected: np.ndarray) -> None:
    found = made(node, INPUTS).products["fusion"]
    np.testing.assert_allclose(found.pooled, expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(found.tokens[:, 0], found.pooled)
    assert found.mask.shape == (3, 1)
    assert found.mask.all()
    assert node.width_of("fusion") == expected.shape[-1]


@pytest.mark.parametrize("hidden", [None, 4])
@pytest.mark.parametrize(
    ("kind", "combine"),
    [
        (Concatenation, lambda x: np.concatenate(x, axis=1)),
        (Sum, lambda x: x[0] + x[1] + x[2]),
        (Product, lambda x: x[0] * x[1] * x[2]),
    ],
)
def test_concatenation_sum_and_product(kind: Any, combine: Any, hidden: int | None) -> None:
    node = kind(streams=STREAMS, width=6, hidden=hidden)
    params = made(node, INPUTS).params
    expected = combine([np.tanh(x) for x in projected(params)])
    if hidden is not None:
        expected = np.tanh(linear(params["hidden"], expected))
    compare(node, expected)


@pytest.mark.parametrize(
    ("activation", "formula"),
    [("none", lambda x: x), ("relu", lambda x: np.maximum(x, 0)), ("tanh", np.tanh)],
)
def test_activations(activation: Any, formula: Any) -> None:
    node = Sum(streams=STREAMS, width=6, activation=activation)
    compare(node, sum(map(formula, projected(made(node, INPUTS).params))))


def test_mutan_is_a_bilinear_form_with_a_core_of_low_rank() -> None:
    """For two streams: x^T T y with the core tensor T_ijk = sum_r M_rik N_rjk, written out.

    The biases of the factors make the form affine in each: a 1 is appended to both vectors.
    """
    two = STREAMS[:2]
    node = Mutan(streams=two, projected=5, width=6, rank=3)
    params = made(node, INPUTS).params
    x, y = (
        np.append(np.tanh(linear(params["project"][n], VECTORS[n])), np.ones((3, 1)), axis=1)
        for n in two
    )
    left, right = (
        np.append(params[f"{n}_core"]["kernel"], params[f"{n}_core"]["bias"][None], axis=0)
        for n in two
    )
    core = np.einsum("irk,jrk->ijk", left, right)
    compare(node, np.einsum("bi,bj,ijk->bk", x, y, core))


def test_mfb_sums_products_takes_the_signed_root_and_normalises() -> None:
    """Value o is the bilinear form x^T (sum of k outer products) y; here column by column."""
    two = STREAMS[:2]
    node = Mfb(streams=two, width=4, factor=3)
    params = made(node, INPUTS).params
    x, y = (linear(params["project"][n], VECTORS[n]) for n in two)
    sums = np.stack([(x * y)[:, 3 * o : 3 * o + 3].sum(axis=1) for o in range(4)], axis=1)
    roots = np.sign(sums) * np.sqrt(np.abs(sums))
    compare(node, roots / np.linalg.norm(roots, axis=1, keepdims=True))


def test_the_signed_root_has_a_finite_gradient_everywhere() -> None:
    """1 / (2 |x|^0.5), and 0 at 0, where dropout may put a sum."""
    gradient = jax.grad(lambda x: signed_square_root(x).sum())(jnp.array([-4.0, 0.0, 0.25]))
    np.testing.assert_allclose(gradient, [0.25, 0, 1], rtol=1e-6)


def test_dropout_drops_values_of_each_row_by_its_index() -> None:
    """Rows have masks of their own, which do not depend on the rows beside them."""
    node = Concatenation(streams=STREAMS[:2], width=32, dropout=0.5, activation="none")
    inputs = {name: INPUTS[name] for name in STREAMS[:2]}
    key = jax.random.key(0)
    whole = made(node, inputs, Call(train=True, key=key)).products["fusion"].pooled
    kept = made(node, inputs).products["fusion"].pooled
    dropped = whole == 0
    assert 0.3 < dropped.mean() < 0.7
    np.testing.assert_allclose(whole, np.where(dropped, 0, 2 * kept), rtol=1e-6)
    last = jax.tree.map(lambda x: x[2:], inputs)
    call = Call(train=True, key=key, example_index=jnp.array([2]))
    np.testing.assert_allclose(
        made(node, last, call).products["fusion"].pooled, whole[2:], rtol=1e-5
    )
