"""Rules that combine the decisions of streams, against their formulas in float64."""

from typing import Any

import numpy as np
import pytest

from tests.models.fusion.streams import linear, made, softmax, stream
from vljax.models.fusion import Decision

NAMES = ("image", "question", "sound")
INPUTS = {name: stream(2 if name == "image" else 6, 3, 5, i) for i, name in enumerate(NAMES)}


def decided(**fields: Any) -> tuple[Any, Any, np.ndarray]:
    """Products, parameters, and the probabilities of each stream, [rows, streams, classes]."""
    products, params = made(Decision(streams=NAMES, classes=4, **fields), INPUTS)
    vectors = {name: np.asarray(INPUTS[name].pooled, np.float64) for name in NAMES}
    vectors["image"] = np.repeat(vectors["image"], 3, axis=0)
    logits = {name: linear(params[f"{name}_logits"], vectors[name]) for name in NAMES}
    for name, expected in logits.items():
        np.testing.assert_allclose(products[f"fusion/{name}_logits"], expected, 1e-5, 1e-6)
    return products, params, np.stack([softmax(logits[name]) for name in NAMES], axis=1)


def probabilities(products: Any) -> np.ndarray:
    return softmax(np.asarray(products["fusion/logits"], np.float64))


def test_a_vote_with_fixed_weights_is_the_weighted_mean_of_probabilities() -> None:
    products, params, p = decided(weights=(2.0, 1.0, 1.0))
    assert "weights" not in params
    expected = 0.5 * p[:, 0] + 0.25 * p[:, 1] + 0.25 * p[:, 2]
    np.testing.assert_allclose(probabilities(products), expected, rtol=1e-5)


def test_a_vote_with_learned_weights_takes_their_softmax() -> None:
    products, params, p = decided()
    expected = np.einsum("s,bsc->bc", softmax(params["weights"]), p)
    np.testing.assert_allclose(probabilities(products), expected, rtol=1e-5)


@pytest.mark.parametrize("rule", ["product", "agreement"])
def test_a_product_of_experts(rule: Any) -> None:
    products, _, p = decided(rule=rule)
    expected = p.prod(axis=1) / p.prod(axis=1).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(probabilities(products), expected, rtol=1e-5)


def test_the_maximum_of_each_class() -> None:
    products, _, p = decided(rule="maximum")
    expected = p.max(axis=1) / p.max(axis=1).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(probabilities(products), expected, rtol=1e-5)


def test_stacking_is_a_linear_map_of_all_log_probabilities() -> None:
    products, params, p = decided(rule="stacking")
    expected = linear(params["stacking"], np.log(p).reshape(6, 12))
    np.testing.assert_allclose(products["fusion/logits"], expected, rtol=1e-5, atol=1e-5)


def test_agreement_decides_where_all_streams_have_the_same_top_class() -> None:
    """Many rows, so that both happen."""
    inputs = {name: stream(60, 1, 5, 3) for name in NAMES}  # the same vectors for all
    products, _ = made(Decision(streams=NAMES, classes=3, rule="agreement"), inputs)
    top = [products[f"fusion/{name}_logits"].argmax(axis=1) for name in NAMES]
    same = (top[0] == top[1]) & (top[1] == top[2])
    assert 0 < same.sum() < 60
    np.testing.assert_array_equal(products["fusion/decided"], same)
