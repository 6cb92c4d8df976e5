"""On-the-fly gradient modulation against its formulas, and what reaches which encoder."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.extending import tiny
from vljax import config, programs
from vljax.config import UserError
from vljax.models.assembly import Variables
from vljax.models.parameters import leaves
from vljax.objectives.balance import BalancedClassification, coefficients, confidence
from vljax.recipes import Classification, Classifier, CrossAttention, Label
from vljax.training.step import gradients_of

VALID = np.array([True, False, True, True])
LOGITS = np.random.default_rng(0).normal(size=(4, 3))


@pytest.mark.parametrize("loss", ["softmax", "sigmoid"])
@pytest.mark.parametrize("soft", [True, False])
def test_confidence_is_the_probability_of_the_right_classes(loss, soft):
    weights = np.array([[0, 0.5, 1], [1, 0, 0], [0, 0, 0], [0, 1, 0]])
    labels = np.array([2, 0, -1, 1])
    shares = weights / np.maximum(weights.sum(1, keepdims=True), 1e-9)
    shares = shares if soft else (labels[:, None] == np.arange(3)).astype(float)
    exp = np.exp(LOGITS)
    p = exp / exp.sum(1, keepdims=True) if loss == "softmax" else 1 / (1 + 1 / exp)
    targets = jnp.float32(weights) if soft else jnp.asarray(labels)
    found = confidence(jnp.float32(LOGITS), targets, jnp.asarray(VALID), loss)
    np.testing.assert_allclose(found, np.sum(shares * p * VALID[:, None]), rtol=1e-6)


def test_coefficients_slow_the_stream_that_is_ahead():
    """Two streams as in the paper; of three, each is compared with the mean of the others."""
    found = coefficients(jnp.array([3.0, 2.0]), 0.8)
    np.testing.assert_allclose(found, [1 - np.tanh(0.8 * 1.5), 1], rtol=1e-6)
    found = coefficients(jnp.array([1.0, 2.0, 6.0]), 0.3)
    np.testing.assert_allclose(found, [1, 1, 1 - np.tanh(0.3 * 4)], rtol=1e-6)
    assert coefficients(jnp.zeros(2), 0.5).tolist() == [1, 1]
    assert coefficients(jnp.array([2.0, 0.0]), 0.5).tolist() == [0, 1]
    np.testing.assert_array_equal(coefficients(jnp.array([3.0, 2.0]), 0.0), [1, 1])


FIELDS = {"logits": "answer/logits", "targets": "label"}
STREAMS = ("image", "text")


def prepared(objective, **fields):
    fusion = CrossAttention(queries="text", width=32, depth=1, heads=2, mlp_dim=32, scan=False)
    nodes = {"image": tiny.IMAGE, "text": tiny.TEXT, "fusion": fusion}
    nodes["answer"] = Classifier(stream="fusion", classes=20)
    return tiny.prepared(nodes, {"answer": objective}, Label(), **fields)


@functools.cache
def gradients(objective, accumulate=1):
    of = prepared(objective, accumulate=accumulate)
    ((objectives, groups),) = of.task.passes.items()
    state, batch = programs.initial_state(of), next(programs.device_batches(of, 0))
    found = jax.jit(lambda s, b, k: gradients_of(of.task, objectives, groups, s, b, k))(
        state, batch, jax.random.key(0)
    )
    return (
        found,
        {"/".join(k): np.asarray(g) for k, g in leaves(found.gradients)},
        (of, state, batch),
    )


def test_only_encoders_get_the_factor():
    plain, expected, _ = gradients(Classification(**FIELDS))
    balanced = BalancedClassification(**FIELDS, streams=STREAMS, alpha=0.7)
    found, changed, (of, state, batch) = gradients(balanced)
    np.testing.assert_allclose(found.loss, plain.loss, rtol=1e-6)
    np.testing.assert_allclose(
        found.metrics["answer/accuracy"], plain.metrics["answer/accuracy"], rtol=1e-6
    )
    # The factors from the model's logits with the other stream set to zero.
    variables = Variables(state.params, state.state)
    apply = jax.jit(lambda batch, given: of.model.apply(variables, batch, given=given)[0])
    outputs = apply(batch, {})
    sums = []
    for name in STREAMS:
        given = {k: v for k, v in outputs.items() if k.split("/")[0] in STREAMS}
        for key in given:
            if key.split("/")[0] != name and key.endswith(("tokens", "pooled")):
                given[key] = jnp.zeros_like(given[key])
        logits = np.asarray(apply(batch, given)["answer/logits"], np.float64)
        p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
        sums.append(p[np.arange(len(p)), np.asarray(batch["label"])].sum())
    ratio = sums[0] / sums[1]
    factors = dict(zip(STREAMS, [ratio, 1 / ratio], strict=True))
    factors = {n: 1 - np.tanh(0.7 * r) if r > 1 else 1.0 for n, r in factors.items()}
    assert min(factors.values()) < 0.7
    for name, total in zip(STREAMS, sums, strict=True):
        metric = found.metrics[f"answer/confidence/{name}"]
        np.testing.assert_allclose(metric, total / 16, rtol=1e-5)
        np.testing.assert_allclose(
            found.metrics[f"answer/modulation/{name}"], factors[name], rtol=1e-5
        )
    for path, gradient in expected.items():
        factor = factors.get(path.split("/")[0], 1.0)
        np.testing.assert_allclose(
            changed[path], factor * gradient, rtol=1e-4, atol=1e-6, err_msg=path
        )


def test_a_batch_in_parts_has_the_same_gradients():
    """The masks of the streams are read too, so that padding stays padding."""
    objective = BalancedClassification(**FIELDS, streams=STREAMS, alpha=0.7)
    whole, expected, (_, _, batch) = gradients(objective)
    assert not np.asarray(batch["text_mask"]).all()
    parts, found, _ = gradients(objective, accumulate=2)
    np.testing.assert_allclose(parts.loss, whole.loss, rtol=1e-6)
    for name, value in whole.metrics.items():
        np.testing.assert_allclose(parts.metrics[name], value, rtol=1e-5, err_msg=name)
    for path, gradient in expected.items():
        np.testing.assert_allclose(found[path], gradient, rtol=1e-4, atol=1e-6, err_msg=path)


def test_noise_reaches_encoders_only():
    of = BalancedClassification(**FIELDS, streams=STREAMS, alpha=0.7)
    _, without, _ = gradients(of)
    _, noisy, _ = gradients(dataclasses.replace(of, noise=1.0))
    for path, gradient in noisy.items():
        assert np.isfinite(gradient).all()
        same = np.allclose(gradient, without[path], rtol=1e-4, atol=1e-6)
        moved = path.split("/")[0] in STREAMS and not path.endswith("key/bias")
        assert same != moved, path


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"streams": ("image",)}, "must name two or more different streams"),
        ({"streams": ("image", "image")}, "must name two or more different streams"),
        ({"alpha": -1.0}, "alpha: must be at least 0, not -1"),
        ({"noise": -1.0}, "noise: must be at least 0, not -1"),
    ],
)
def test_wrong_fields_are_named(changes, message):
    with pytest.raises(UserError, match=message):
        config.validate(BalancedClassification(**FIELDS, **changes))


def test_a_stream_that_no_node_makes_is_an_error():
    with pytest.raises(UserError, match="imag/tokens"):
        prepared(BalancedClassification(**FIELDS, streams=("imag", "text")))
