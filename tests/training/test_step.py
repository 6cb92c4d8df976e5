"""The training step."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.training import tiny
from vljax.config import UserError
from vljax.models.assembly import Variables
from vljax.models.parameters import leaves, unroll
from vljax.objectives.contrastive import SigmoidContrastive, SoftmaxContrastive
from vljax.objectives.objective import Context
from vljax.optim import Group
from vljax.training.step import make_step


def test_the_loss_falls_on_a_repeated_batch():
    _, step, state = tiny.standard()
    losses = []
    for _ in range(tiny.STEPS):
        state, metrics = step(state, tiny.batch(), tiny.hyper())
        losses.append(float(metrics["loss"]))
    assert losses[-1] < 0.5 * losses[0]
    assert int(state.step) == tiny.STEPS


def test_one_step_is_adamw_in_float64():
    """Kingma & Ba 2015, algorithm 1, with decoupled decay (Loshchilov & Hutter 2019)."""
    of, step, state = tiny.standard()
    clip, eps, rate, wd = of.optimizer.clip_norm, of.optimizer.epsilon, 1e-2 * 0.5, 0.1

    def loss(params):
        batch = tiny.batch()
        forward = lambda batch, *_: of.model.apply(Variables(params, {}), batch)[0]  # noqa: E731
        objective = of.objectives["main"]
        return objective(Context(forward, batch), batch, jax.random.key(0)).loss

    gradients = {k: np.float64(g) for k, g in leaves(jax.jit(jax.grad(loss))(state.params))}
    norm = np.sqrt(sum(np.sum(g**2) for g in gradients.values()))
    after, metrics = step(state, tiny.batch(), tiny.hyper())
    assert metrics["gradient_norm"] == pytest.approx(norm, rel=1e-5)
    after = dict(leaves(after.params))
    for keys, before in leaves(state.params):
        g = gradients[keys] * min(1, clip / norm)
        mean, square = 0.1 * g / (1 - 0.9), 0.001 * g**2 / (1 - 0.999)
        decayed = keys[-1] in ("kernel", "embedding", "patch_embedding")
        update = mean / (np.sqrt(square) + eps) + wd * decayed * np.float64(before)
        truth = np.float64(before) - rate * update
        np.testing.assert_allclose(after[keys], truth, rtol=1e-6, atol=5e-7, err_msg=str(keys))


def test_a_step_with_gradients_that_are_not_finite_changes_nothing_but_the_count():
    _, step, state = tiny.standard()
    params = {**state.params, "logit_scale": jnp.float32(jnp.nan)}
    bad = state._replace(params=params)
    after, metrics = step(bad, tiny.batch(), tiny.hyper())
    assert (int(after.step), int(after.skipped)) == (1, 1)
    assert int(metrics["skipped_steps"]) == 1
    chex.assert_trees_all_equal((after.params, after.optimizer), (bad.params, bad.optimizer))


def test_invalid_examples_have_no_influence():
    _, step, state = tiny.standard()
    valid = np.arange(tiny.BATCH) < 6
    clean, dirty = tiny.batch(valid=valid), tiny.batch(valid=valid)
    dirty["image"] = dirty["image"].at[6:].set(255)
    dirty["text"] = dirty["text"].at[6:].set(1)
    first, metrics = step(state, clean, tiny.hyper())
    second, _ = step(state, dirty, tiny.hyper())
    assert int(metrics["valid_examples"]) == 6
    assert tiny.distance(first.params, second.params) < 1e-6


def test_a_batch_without_valid_examples_is_skipped():
    _, step, state = tiny.standard()
    state, _ = step(state, tiny.batch(), tiny.hyper())
    after, _ = step(state, tiny.batch(valid=np.zeros(tiny.BATCH, bool)), tiny.hyper())
    assert (int(after.step), int(after.skipped)) == (2, 1)
    chex.assert_trees_all_equal(after.params, state.params)


@functools.cache
def regularized():
    """A jitted step with dropout that fails when it is traced twice, and its first state."""
    of = tiny.task(depth=1, dropout=0.5)
    return jax.jit(chex.assert_max_traces(make_step(of), n=1)), tiny.state(of, depth=1)


def test_learning_rate_weight_decay_and_seed_share_one_compile():
    step, state = regularized()
    results = []
    for values in ((1e-2, 0.1, 0), (2e-2, 0.1, 0), (1e-2, 0.5, 0), (1e-2, 0.1, 1)):
        after, _ = step(state, tiny.batch(), tiny.hyper(*values))
        results.append(np.asarray(after.params["image"]["patch_embedding"]))
    for other in results[1:]:
        assert np.abs(other - results[0]).max() > 0


def test_dropout_depends_on_the_step_and_the_seed_only():
    step, state = regularized()
    loss = lambda s, seed: float(step(s, tiny.batch(), tiny.hyper(seed=seed))[1]["loss"])  # noqa: E731
    later = state._replace(step=jnp.int32(1))
    assert loss(state, 0) == loss(state, 0)
    assert len({loss(state, 0), loss(state, 1), loss(later, 0)}) == 3


def test_learned_scalars_stay_within_their_limits():
    _, step, state = tiny.standard()
    high = state._replace(params={**state.params, "logit_scale": jnp.float32(9.0)})
    after, _ = step(high, tiny.batch(), tiny.hyper())
    assert after.params["logit_scale"] == np.float32(np.log(100))


def test_objectives_add_up_by_their_weights():
    both = {
        "a": SoftmaxContrastive(weight=2.0),
        "b": SoftmaxContrastive(weight=0.5, direction="image_to_text"),
    }
    of = tiny.task(both, depth=1)
    _, metrics = jax.jit(make_step(of))(tiny.state(of, depth=1), tiny.batch(), tiny.hyper())
    expected = 2 * metrics["a/loss"] + 0.5 * metrics["b/loss"]
    assert metrics["loss"] == pytest.approx(float(expected), rel=1e-6)


def test_groups_train_their_own_parameters():
    objectives = {
        "image": SoftmaxContrastive(trains=("image",)),
        "text": SoftmaxContrastive(trains=("text",), direction="text_to_image"),
    }
    groups = {
        "image": Group(parameters="image/.*|embedding/image/.*"),
        "text": Group(parameters="text/.*"),
    }
    of = tiny.task(objectives, groups=groups, depth=1)
    state = tiny.state(of, depth=1)
    assert set(state.optimizer) == {"image", "text"}
    after, metrics = jax.jit(make_step(of))(state, tiny.batch(), tiny.hyper())
    moved = {
        keys
        for (keys, new), (_, old) in zip(leaves(after.params), leaves(state.params), strict=True)
        if np.any(np.asarray(new) != np.asarray(old))
    }
    assert ("logit_scale",) not in moved
    assert ("embedding", "text", "kernel") not in moved
    assert ("embedding", "image", "kernel") in moved
    assert {"image", "text"} <= {keys[0] for keys in moved}
    assert float(metrics["gradient_norm"]) > 0


def test_a_group_that_trains_nothing():
    of = tiny.task(groups={"a": Group(parameters="imagee/.*")})
    message = r"groups\.a\.parameters: 'imagee/\.\*' matches no parameter"
    with pytest.raises(UserError, match=message):
        tiny.state(of)


def test_the_contract_of_a_batch_is_checked_while_the_step_is_traced():
    of, _, state = tiny.standard()
    batch = tiny.batch()
    for bad in ({"valid": batch["valid"][:-1]}, {"valid": jnp.float32(batch["valid"])}):
        with pytest.raises(AssertionError):
            jax.eval_shape(make_step(of), state, batch | bad, tiny.hyper())


def test_the_sigmoid_objective_learns_its_bias():
    of = tiny.task({"main": SigmoidContrastive()}, depth=1)
    state = tiny.state(of, depth=1)
    after, metrics = jax.jit(make_step(of))(state, tiny.batch(), tiny.hyper())
    assert state.params["logit_bias"] == -10
    assert after.params["logit_bias"] != -10
    assert float(metrics["main/logit_bias"]) == -10


def test_scanned_and_unrolled_stacks_take_the_same_step():
    scanned = tiny.task(scan=True)
    state = tiny.state(scanned, scan=True)
    _, step, flat = tiny.standard()
    flat = flat._replace(params=unroll(state.params))
    one, metrics = jax.jit(make_step(scanned))(state, tiny.batch(), tiny.hyper())
    other, other_metrics = step(flat, tiny.batch(), tiny.hyper())
    assert float(metrics["loss"]) == pytest.approx(float(other_metrics["loss"]), rel=1e-6)
    assert tiny.distance(unroll(one.params), other.params) < 1e-5
