"""Losses of classes against their formulas in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vljax import config
from vljax.config import UserError
from vljax.objectives import Classification
from vljax.objectives.classification import classification_loss
from vljax.objectives.objective import Context

ROWS, CLASSES = 6, 5
VALID = np.array([True, True, False, True, True, True])


def inputs(seed=0):
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=(ROWS, CLASSES)) * 3
    weights = rng.random((ROWS, CLASSES)) * (rng.random((ROWS, CLASSES)) < 0.5)
    weights[1] = 0  # no known answer
    weights[0] = [0, 0.3, 0, 0.9, 0]
    return logits, weights


def expected(logits, weights, loss, smoothing):
    """Cross-entropy of normalised weights, or binary cross-entropy summed over classes."""
    total = weights.sum(1)
    each, credit = [], []
    for row in np.flatnonzero(VALID & (total > 0)):
        x, w = logits[row], weights[row]
        if loss == "softmax":
            shares = (1 - smoothing) * w / w.sum() + smoothing / CLASSES
            each.append(-np.sum(shares * (x - np.log(np.sum(np.exp(x))))))
        else:
            p, t = 1 / (1 + np.exp(-x)), (1 - smoothing) * w + smoothing / 2
            each.append(-np.sum(t * np.log(p) + (1 - t) * np.log(1 - p)))
        credit.append(w[np.argmax(x)])
    return np.mean(each), np.mean(credit)


@pytest.mark.parametrize("loss", ["softmax", "sigmoid"])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_soft_targets(loss, smoothing):
    logits, weights = inputs()
    found = classification_loss(
        jnp.float32(logits), jnp.float32(weights), jnp.asarray(VALID), loss, smoothing
    )
    np.testing.assert_allclose(found, expected(logits, weights, loss, smoothing), rtol=1e-6)


def test_examples_without_any_label_are_negative_for_all():
    """Binary cross-entropy over all valid rows; the row of zeros counts."""
    logits, weights = inputs()
    labels = (weights > 0).astype(float)
    p = 1 / (1 + np.exp(-logits))
    each = -np.sum(labels * np.log(p) + (1 - labels) * np.log(1 - p), axis=1)
    found, _ = classification_loss(
        jnp.float32(logits),
        jnp.float32(labels),
        jnp.asarray(VALID),
        "sigmoid",
        empty_targets="negative",
    )
    np.testing.assert_allclose(found, each[VALID].mean(), rtol=1e-6)
    objective = Classification(logits="a/logits", targets="tags", empty_targets="negative")
    with pytest.raises(UserError, match="negative needs several labels; set loss to sigmoid"):
        config.validate(objective)


def test_indices_are_targets_of_one_class():
    logits, _ = inputs()
    labels = np.array([0, -1, 2, 3, 4, 1])
    weights = np.where(labels[:, None] == np.arange(CLASSES), 1.0, 0.0)
    found = classification_loss(jnp.float32(logits), jnp.asarray(labels), jnp.asarray(VALID))
    np.testing.assert_allclose(found, expected(logits, weights, "softmax", 0), rtol=1e-6)


def test_a_tie_is_not_a_hit_and_nothing_to_count_is_zero():
    valid = jnp.array([True])
    assert classification_loss(jnp.zeros((1, 2)), jnp.array([0]), valid)[1] == 0
    assert classification_loss(jnp.ones((1, 2)), jnp.array([-1]), valid) == (0, 0)
    assert classification_loss(jnp.ones((1, 2)), jnp.array([0]), ~valid) == (0, 0)


def test_several_targets_of_an_example():
    """Rows of an example are together; all of one that is not valid are ignored."""
    logits, weights = inputs()
    batch = {
        "answer": jnp.float32(weights).reshape(2, 3, CLASSES),
        "valid": jnp.array([False, True]),
    }
    objective = Classification(logits="x/logits", targets="answer")
    ctx = Context(lambda *_: {"x/logits": jnp.float32(logits)}, batch)
    result = objective(ctx, batch, jax.random.key(0))
    alone = classification_loss(
        jnp.float32(logits[3:]), jnp.float32(weights[3:]), jnp.ones(3, bool)
    )
    np.testing.assert_allclose((result.loss, result.metrics["accuracy"]), alone, rtol=1e-6)


def test_bad_fields():
    with pytest.raises(UserError, match=r"smoothing: must be in \[0, 1\), not 1.0"):
        config.validate(Classification(logits="a", targets="b", smoothing=1.0))
