"""Cosines of a stream with class vectors, against the formula in float64."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.linen import meta

from tests.models.fusion.streams import linear, made, stream
from vljax.models.compute import Call, Compute
from vljax.models.heads import EmbeddingClassifier

HEAD = EmbeddingClassifier(stream="fused", classes=3, dim=4)
INPUTS = {"fused": stream(5, 2, 6)}


def unit(x: np.ndarray) -> np.ndarray:
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def test_logits_are_scaled_cosines_with_the_class_vectors() -> None:
    products, params = made(HEAD, INPUTS)
    embedding = unit(linear(params["project"], INPUTS["fused"].pooled))
    expected = np.exp(params["logit_scale"]) * embedding @ unit(params["classes"]).T
    np.testing.assert_allclose(products["fusion/logits"], expected, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(products["fusion/embedding"], embedding, rtol=1e-5, atol=1e-6)
    found = products["fusion/class_embedding"]
    np.testing.assert_allclose(found, unit(params["classes"]), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("temperature", "scale"), [(0.25, 4.0), (0.01, 100.0)])
def test_the_temperature_begins_as_given_and_stays_above_a_limit(temperature, scale) -> None:
    head = EmbeddingClassifier(stream="fused", classes=3, dim=4, temperature=temperature)
    module = head.module(Compute(), "head")
    params = meta.unbox(module.init(jax.random.key(0), INPUTS, Call())["params"])
    for added, expected in ((0.0, scale), (5.0, 100.0)):
        changed = {**params, "logit_scale": params["logit_scale"] + added}
        made = module.apply({"params": changed}, INPUTS, Call())
        cosine = made["head/embedding"] @ made["head/class_embedding"].T
        np.testing.assert_allclose(made["head/logits"], expected * cosine, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("added", "up", "down"), [(-1.0, True, True), (5.0, False, True)])
def test_a_scale_beyond_its_limit_has_a_gradient_back_only(added, up, down) -> None:
    """The sum of all logits, which is to become larger or smaller, by the sign of its factor."""
    module = HEAD.module(Compute(), "head")
    params = meta.unbox(module.init(jax.random.key(0), INPUTS, Call())["params"])
    start = jnp.float32(np.log(100) + added)

    def total(log_scale):
        made = module.apply({"params": {**params, "logit_scale": log_scale}}, INPUTS, Call())
        return made["head/logits"].sum()

    larger = np.sign(total(start))  # times the total: it grows with the scale
    assert bool(jax.grad(lambda x: -larger * total(x))(start)) == up
    assert bool(jax.grad(lambda x: larger * total(x))(start)) == down


def test_the_class_vectors_need_no_example() -> None:
    module = HEAD.module(Compute(), "head")
    variables = module.init(jax.random.key(0), INPUTS, Call())
    products = module.apply(variables, {}, Call())
    assert {name: array.shape for name, array in products.items()} == {
        "head/class_embedding": (3, 4)
    }
