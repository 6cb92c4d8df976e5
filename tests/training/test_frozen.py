"""Parameters that stay as they are, and the moving average of the others."""

import dataclasses
import functools

import chex
import jax
import numpy as np
import pytest

from tests.training import tiny
from vljax.models.parameters import leaves
from vljax.optim import AdamW
from vljax.training.state import evaluation_variables

IMAGE = ("image/.*", "embedding/image/.*")


@functools.cache
def prepared(**fields):
    """A task with these fields of its optimizer, its compiled step, and its first state."""
    optimizer = dataclasses.replace(tiny.standard()[0].optimizer, **fields)
    of = tiny.task(optimizer=optimizer, depth=1)
    first = tiny.state(of, depth=1)
    return of, tiny.compiled(of, first), first


# Frozen parameters do not enter the norm of all gradients, by which they would be clipped.
FREE, FROZEN = {"clip_norm": None}, {"clip_norm": None, "frozen": IMAGE}


def keys_of(tree):
    return {keys for keys, _ in leaves(tree)}


def test_frozen_parameters_have_no_state_and_do_not_move():
    _, step, first = prepared(**FROZEN)
    after, _ = step(first, tiny.batch(), tiny.hyper())
    for keys, before in leaves(first.params):
        frozen = keys[0] == "image" or keys[:2] == ("embedding", "image")
        if frozen:
            np.testing.assert_array_equal(dict(leaves(after.params))[keys], before, str(keys))
        moments = jax.tree.leaves_with_path(first.optimizer)
        names = {tuple(k.key for k in path if hasattr(k, "key")) for path, _ in moments}
        assert any(name[-len(keys) :] == keys for name in names) != frozen


def test_trained_parameters_move_as_if_nothing_were_frozen():
    """To 1e-5, float32: another program, other rounding."""
    (_, free, first), (_, frozen, other_first) = prepared(**FREE), prepared(**FROZEN)
    one, _ = free(first, tiny.batch(), tiny.hyper())
    other, _ = frozen(other_first, tiny.batch(), tiny.hyper())
    assert tiny.distance(one.params["text"], other.params["text"]) < 1e-5


def test_no_gradient_of_a_frozen_tower_is_computed():
    free, frozen = (prepared(**fields)[1].cost_analysis()["flops"] for fields in (FREE, FROZEN))
    # The two towers cost about the same; a frozen one leaves one of three passes.
    assert frozen < 0.8 * free


def test_the_average_follows_its_formula():
    _, step, state = prepared(ema_decay=0.9)
    truth = {keys: np.float64(value) for keys, value in leaves(state.params)}
    for k in range(4):
        state, _ = step(state, tiny.batch(k), tiny.hyper())
        decay = min(0.9, (1 + k) / (10 + k))
        for keys, value in leaves(state.params):
            truth[keys] = decay * truth[keys] + (1 - decay) * np.float64(value)
    for keys, value in leaves(evaluation_variables(state).params):
        np.testing.assert_allclose(value, truth[keys], rtol=1e-5, atol=1e-6, err_msg=str(keys))


def test_only_trained_parameters_have_an_average_and_all_are_evaluated():
    optimizer = dataclasses.replace(tiny.standard()[0].optimizer, ema_decay=0.9, frozen=IMAGE)
    state = tiny.state(tiny.task(optimizer=optimizer))
    assert "image" not in state.average
    assert "text" in state.average
    assert keys_of(evaluation_variables(state).params) == keys_of(state.params)


def test_a_skipped_step_keeps_the_average():
    _, step, state = prepared(ema_decay=0.9)
    state, _ = step(state, tiny.batch(), tiny.hyper())
    nothing = tiny.batch(valid=np.zeros(tiny.BATCH, bool))
    after, _ = step(state, nothing, tiny.hyper())
    chex.assert_trees_all_equal(after.average, state.average)


def test_without_an_average_the_parameters_are_evaluated():
    state = tiny.standard()[2]
    assert state.average == {}
    assert evaluation_variables(state).params == state.params


def test_skipped_steps_in_a_row_are_counted():
    _, step, state = tiny.standard()
    nothing = tiny.batch(valid=np.zeros(tiny.BATCH, bool))
    counts = []
    for batch in (nothing, nothing, tiny.batch(), nothing):
        state, metrics = step(state, batch, tiny.hyper())
        assert metrics["skipped_in_a_row"] == state.skipped_in_a_row
        counts.append((int(state.skipped), int(state.skipped_in_a_row)))
    assert counts == [(1, 1), (2, 2), (2, 0), (3, 1)]


@pytest.mark.parametrize("decay", [-0.1, 1.0])
def test_a_decay_out_of_range_is_named(decay):
    (problem,) = AdamW(ema_decay=decay).problems()
    assert problem == ("ema_decay", f"must be in [0, 1), or None for no average, not {decay}")
