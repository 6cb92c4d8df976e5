"""The loss of attention against its formula in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vljax import config
from vljax.config import UserError
from vljax.objectives import AttentionTarget
from vljax.objectives.attention_target import attention_loss
from vljax.objectives.objective import Context
from vljax.overrides import override
from vljax.run import Run, prepare

ROWS, HEADS, WORDS, CELLS = 6, 3, 4, 5
VALID = np.array([True, True, False, True, True, True])


def inputs(seed=1):
    rng = np.random.default_rng(seed)
    scores = rng.random((ROWS, HEADS, WORDS, CELLS)) ** 3
    words = np.arange(WORDS) < rng.integers(1, WORDS + 1, (ROWS, 1))
    targets = rng.random((ROWS, CELLS)) * (rng.random((ROWS, CELLS)) < 0.6)
    targets[0], targets[1] = 0, [0, 1, 0, 0, 0]
    shares = targets / np.maximum(targets.sum(1, keepdims=True), 1e-9)
    return scores / scores.sum(-1, keepdims=True), words, shares


def test_the_loss_is_the_cross_entropy_with_the_mean_attention_of_the_words():
    attention, words, targets = inputs()
    each, hits = [], []
    for row in np.flatnonzero(VALID & (targets.sum(1) > 0)):
        mean = attention[row][:, words[row]].mean(axis=(0, 1))
        each.append(-sum(t * np.log(p) for t, p in zip(targets[row], mean, strict=True) if t))
        hits.append(targets[row][np.argmax(mean)] > 0)
    assert 0 < np.mean(hits) < 1
    with jax.enable_x64(True):
        loss, share = attention_loss(*map(jnp.asarray, (attention, words, targets, VALID)))
    np.testing.assert_allclose([loss, share], [np.mean(each), np.mean(hits)], rtol=1e-12)


def test_no_row_with_a_target_and_attention_of_zero_give_finite_losses_and_gradients():
    attention, words, targets = map(jnp.float32, inputs())
    for given, to in ((attention, 0 * targets), (0 * attention, targets)):
        loss, gradient = jax.value_and_grad(
            lambda a, to: attention_loss(a, words > 0, to, jnp.array(VALID))[0]
        )(given, to)
        assert np.isfinite(loss)
        assert np.isfinite(gradient).all()


def test_the_last_block_counts_and_each_question_has_a_row_of_targets():
    attention, words, targets = inputs()
    blocks = np.stack([np.full_like(attention, 1 / CELLS), attention], axis=1)
    outputs = {"fusion/attention": jnp.array(blocks), "question/mask": jnp.array(words)}
    batch = {
        "answer_cells": jnp.array(targets.reshape(3, 2, CELLS)),
        "valid": jnp.array([True, False, True]),
    }
    ctx = Context(lambda *asked: outputs, batch)
    result = AttentionTarget()(ctx, batch, jax.random.key(0))
    expected = attention_loss(
        *map(jnp.array, (attention, words, targets)), jnp.repeat(batch["valid"], 2)
    )
    np.testing.assert_allclose((result.loss, result.metrics["accuracy"]), expected, rtol=1e-6)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            ["--objectives.look.attention", "fusion/attentions"],
            "objectives.look: reads 'fusion/attentions', which no node makes; did you mean",
        ),
        (
            ["--data.train_transforms.5.cells", "4"],
            "objectives.look.targets: 'answer_cells' has 16 cells and 'fusion/attention' has 64",
        ),
    ],
)
def test_what_does_not_fit_is_named(overrides, message):
    run = config.load("configs/vqa_cross_attention.py:tiny", Run)
    with pytest.raises(UserError, match=message):
        prepare(override(run, overrides))
