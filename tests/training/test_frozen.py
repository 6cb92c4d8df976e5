"""Parameters that stay as they are, and the moving average of the others."""

import dataclasses

import jax
import numpy as np
import pytest

from tests.training import tiny
from vljax.models.parameters import leaves
from vljax.optim import AdamW
from vljax.training.state import evaluation_variables
from vljax.training.step import make_step

IMAGE = ("image/.*", "embedding/image/.*")


def task(**fields):
    return tiny.task(optimizer=dataclasses.replace(tiny.standard()[0].optimizer, **fields))


def keys_of(tree):
    return {keys for keys, _ in leaves(tree)}


def test_frozen_parameters_have_no_state_and_do_not_move():
    of = task(frozen=IMAGE, weight_decay=0.1)
    first = tiny.state(of)
    after, _ = jax.jit(make_step(of))(first, tiny.batch(), tiny.hyper())
    for keys, before in leaves(first.params):
        frozen = keys[0] == "image" or keys[:2] == ("embedding", "image")
        if frozen:
            np.testing.assert_array_equal(dict(leaves(after.params))[keys], before, str(keys))
        moments = jax.tree.leaves_with_path(first.optimizer)
        names = {tuple(k.key for k in path if hasattr(k, "key")) for path, _ in moments}
        assert any(name[-len(keys) :] == keys for name in names) != frozen


def test_what_is_trained_moves_as_if_nothing_were_frozen():
    """Without clipping by the norm of all gradients, which frozen ones do not enter.

    To 1e-5, float32: another program, other rounding.
    """
    free, frozen = task(clip_norm=None), task(clip_norm=None, frozen=IMAGE)
    one, _ = jax.jit(make_step(free))(tiny.state(free), tiny.batch(), tiny.hyper())
    other, _ = jax.jit(make_step(frozen))(tiny.state(frozen), tiny.batch(), tiny.hyper())
    assert tiny.distance(one.params["text"], other.params["text"]) < 1e-5


def test_no_gradient_of_a_frozen_tower_is_computed():
    def flops(of):
        lowered = jax.jit(make_step(of)).lower(tiny.state(of), tiny.batch(), tiny.hyper())
        return lowered.compile().cost_analysis()["flops"]

    # The two towers cost about the same; a frozen one leaves one of three passes.
    assert flops(task(frozen=IMAGE)) < 0.8 * flops(task())


def test_the_average_follows_its_formula():
    of = task(ema_decay=0.9)
    step, state = jax.jit(make_step(of)), tiny.state(of)
    truth = {keys: np.float64(value) for keys, value in leaves(state.params)}
    for k in range(4):
        state, _ = step(state, tiny.batch(k), tiny.hyper())
        decay = min(0.9, (1 + k) / (10 + k))
        for keys, value in leaves(state.params):
            truth[keys] = decay * truth[keys] + (1 - decay) * np.float64(value)
    for keys, value in leaves(evaluation_variables(state).params):
        np.testing.assert_allclose(value, truth[keys], rtol=1e-5, atol=1e-6, err_msg=str(keys))


def test_the_average_is_of_what_is_trained_and_evaluation_has_all():
    of = task(ema_decay=0.9, frozen=IMAGE)
    state = tiny.state(of)
    assert "image" not in state.average
    assert "text" in state.average
    assert keys_of(evaluation_variables(state).params) == keys_of(state.params)


def test_a_skipped_step_leaves_the_average():
    of = task(ema_decay=0.9)
    step, state = jax.jit(make_step(of)), tiny.state(of)
    state, _ = step(state, tiny.batch(), tiny.hyper())
    nothing = tiny.batch(valid=np.zeros(tiny.BATCH, bool))
    after, _ = step(state, nothing, tiny.hyper())
    jax.tree.map(np.testing.assert_array_equal, after.average, state.average)


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
