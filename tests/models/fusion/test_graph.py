"""Graph convolution and attention against their formulas in float64, node by node."""

from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest

from tests.models.fusion.streams import linear, made, softmax, stream
from vljax.models.fusion import GraphFusion
from vljax.models.fusion.graph import nearest

IMAGE = stream(2, 4, 6, padded=True)._replace(positions=jnp.ones((2, 4, 2)) / 2)
INPUTS = {"image": IMAGE, "question": stream(2, 3, 8, 1, padded=True)}
NAMES = ("image", "question")
WIDTH = 4


def graph(**fields: Any) -> GraphFusion:
    return GraphFusion(**{"streams": NAMES, "width": WIDTH, "depth": 2, **fields})


def nodes(params: Any, row: int) -> tuple[np.ndarray, np.ndarray]:
    """The nodes of a row that are not padding, and their indices among all."""
    projected = [linear(params["project"][name], INPUTS[name].tokens[row]) for name in NAMES]
    mask = np.concatenate([np.asarray(INPUTS[name].mask[row]) for name in NAMES])
    return np.concatenate(projected)[mask], np.flatnonzero(mask)


def chosen(scores: np.ndarray, count: int | None) -> np.ndarray:
    """Of the other nodes, those with the largest scores."""
    size = len(scores)
    keep = np.zeros((size, size), bool)
    for i in range(size):
        others = [j for j in np.argsort(-scores[i]) if j != i]
        keep[i, others if count is None else others[:count]] = True
    return keep


@pytest.mark.parametrize("residual", [True, False])
@pytest.mark.parametrize("neighbours", [None, 2])
def test_convolution(neighbours: int | None, residual: bool) -> None:
    node = graph(neighbours=neighbours, residual=residual)
    products, params = made(node, INPUTS)
    for row in range(2):
        x, index = nodes(params, row)
        similar = x @ params["similarity"]["kernel"]
        scores = similar @ similar.T / np.sqrt(WIDTH)
        weights = softmax(np.where(chosen(scores, neighbours), scores, -np.inf))
        loops = (weights + weights.T) / 2 + np.eye(len(x))
        root = np.diag(loops.sum(axis=1) ** -0.5)
        edges = root @ loops @ root
        for i in range(2):
            y = np.maximum(linear(params[f"layer_{i}"]["map"], edges @ x), 0)
            x = x + y if residual else y
        compare(products, row, x, index, edges)


@pytest.mark.parametrize(("neighbours", "heads"), [(None, 1), (None, 2), (2, 2)])
def test_attention(neighbours: int | None, heads: int) -> None:
    node = graph(layer="attention", neighbours=neighbours, heads=heads, residual=False)
    products, params = made(node, INPUTS)
    for row in range(2):
        x, index = nodes(params, row)
        keep = chosen(x @ x.T, neighbours) | np.eye(len(x), dtype=bool)
        for i in range(2):
            layer = params[f"layer_{i}"]
            parts, weights = [], []
            for head in range(heads):
                h = x @ layer["map"]["kernel"][:, head]
                a = np.concatenate([layer["receiving"][head], layer["sending"][head]])
                e = np.array([[a @ np.concatenate([p, q]) for q in h] for p in h])
                e = np.where(e > 0, e, 0.2 * e)
                weights.append(softmax(np.where(keep, e, -np.inf)))
                mixed = weights[-1] @ h
                parts.append(np.where(mixed > 0, mixed, np.expm1(mixed)))
            x = np.concatenate(parts, axis=1)
        compare(products, row, x, index, np.mean(weights, axis=0))


def compare(products: Any, row: int, x: Any, index: Any, edges: Any) -> None:
    found = products["fusion"]
    np.testing.assert_allclose(found.tokens[row, index], x, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(found.pooled[row], x.mean(axis=0), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(products["fusion/edges"][row][np.ix_(index, index)], edges, 1e-5)
    padding = np.setdiff1d(np.arange(7), index)
    assert (products["fusion/edges"][row][np.ix_(index, padding)] == 0).all()


def test_the_stream_has_all_nodes_and_may_be_read_out_at_one_stream() -> None:
    products, _ = made(graph(readout=("question",)), INPUTS)
    found = products["fusion"]
    assert found.tokens.shape == (2, 7, WIDTH)
    np.testing.assert_array_equal(found.positions[:, :4], 0.5)
    np.testing.assert_array_equal(found.positions[:, 4:], -1)
    for row in range(2):
        words = found.tokens[row, 4:][np.asarray(INPUTS["question"].mask[row])]
        np.testing.assert_allclose(found.pooled[row], words.mean(axis=0), rtol=1e-5, atol=1e-6)


def test_fewer_nodes_than_neighbours_are_all_taken() -> None:
    scores = jnp.array([[[0.0, 3.0, 2.0], [1.0, 0.0, 5.0], [1.0, 1.0, 0.0]]])
    allowed = jnp.array([[[False, True, True], [True, False, False], [True, True, False]]])
    assert nearest(scores, allowed, 5).tolist() == allowed.tolist()
    assert nearest(scores, allowed, 1)[0].tolist() == [
        [False, True, False],
        [True, False, False],
        [True, True, False],  # a tie
    ]
