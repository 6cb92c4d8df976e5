"""Groups of parameters with optimizers of their own, and what objectives keep between steps."""

import dataclasses
import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.training import tiny
from vljax.models.assembly import Variables
from vljax.models.parameters import leaves
from vljax.objectives.contrastive import SoftmaxContrastive
from vljax.objectives.objective import Kept, Objective, Result
from vljax.optim import SGD, AdamW, Group
from vljax.optim.schedules import WarmupCosine
from vljax.training.step import make_step

SCHEDULE = WarmupCosine(2)
ADAM = AdamW(weight_decay=0.1, epsilon=1e-3, schedule=SCHEDULE)
ONE = {"depth": 1}


def steps(of, count, hyper=None):
    """The states and metrics of some steps on different batches."""
    step, state = jax.jit(make_step(of)), tiny.state(of, **ONE)
    states, metrics = [state], []
    for k in range(count):
        state, logged = step(state, tiny.batch(k), hyper or tiny.hyper())
        states.append(state)
        metrics.append(jax.device_get(logged))
    return states, metrics


def test_groups_with_the_optimizer_of_the_run_train_as_one():
    """Without clipping, which is by group, to rounding."""
    alone = dataclasses.replace(ADAM, clip_norm=None)
    groups = {"image": Group(parameters="image/.*"), "rest": Group(parameters="(?!image/).*")}
    (*_, whole), _ = steps(tiny.task(optimizer=alone, **ONE), 3)
    (*_, split), metrics = steps(tiny.task(optimizer=alone, groups=groups, **ONE), 3)
    assert tiny.distance(split.params, whole.params) < 1e-6
    assert {name for name in metrics[0] if name.startswith("groups/image/")} == {
        f"groups/image/{name}"
        for name in ("loss", "gradient_norm", "learning_rate", "skipped_steps")
    }
    norms = [metrics[0][f"groups/{group}/gradient_norm"] for group in groups]
    assert np.hypot(*norms) == pytest.approx(metrics[0]["gradient_norm"], rel=1e-6)


def test_a_group_has_its_own_optimizer_rate_and_average():
    """Plain gradient descent on the text tower, checked against its formula."""
    own = SGD(momentum=0.0, clip_norm=None, ema_decay=0.5, schedule=SCHEDULE)
    groups = {
        "text": Group(parameters="text/.*", optim=own),
        "rest": Group(parameters="(?!text/).*"),
    }
    hyper = tiny.hyper()._replace(groups={"text": (jnp.float32(0.5), jnp.float32(0.0))})
    of = tiny.task(optimizer=ADAM, groups=groups, **ONE)
    (first, second), metrics = steps(of, 1, hyper)
    assert set(second.average) == {"text"}

    def loss(params):
        outputs, _ = of.model.apply(Variables(params, {}), tiny.batch())
        pairs = jnp.exp(outputs["logit_scale"]) * outputs["image/embedding"]
        logits = pairs @ outputs["text/embedding"].T
        own = jnp.diag(logits)
        return jnp.mean(jax.nn.logsumexp(logits, 0) + jax.nn.logsumexp(logits, 1) - 2 * own) / 2

    gradient = dict(leaves(jax.jit(jax.grad(loss))(first.params)["text"]))
    rate = metrics[0]["groups/text/learning_rate"]
    assert rate == pytest.approx(0.25)  # the first of two steps of warm-up
    after = dict(leaves(second.params["text"]))
    for keys, before in leaves(first.params["text"]):
        np.testing.assert_allclose(after[keys], before - rate * gradient[keys], atol=1e-5)


def test_a_group_is_updated_in_every_nth_step_only():
    groups = {
        "text": Group(parameters="text/.*", every=2),
        "rest": Group(parameters="(?!text/).*"),
    }
    states, _ = steps(tiny.task(optimizer=ADAM, groups=groups, **ONE), 4)
    moved = [
        not np.array_equal(a.params["text"]["embedding"], b.params["text"]["embedding"])
        for a, b in itertools.pairwise(states)
    ]
    assert moved == [True, False, True, False]
    rest = [s.params["image"]["patch_embedding"] for s in states]
    assert not any(np.array_equal(a, b) for a, b in itertools.pairwise(rest))


# --- Groups that start later (LP-FT, Kumar et al. 2022) -------------------------------------------

START = 2
LATE = dataclasses.replace(ADAM, clip_norm=0.1, ema_decay=0.9)


def late(start=START, **fields):
    groups = {
        "heads": Group(parameters="(?!image/|text/).*"),
        "towers": Group(parameters="(image|text)/.*", start=start, **fields),
    }
    return tiny.task(optimizer=LATE, groups=groups, **ONE)


def adam_count(state, group):
    (moments,) = (part for part in state.optimizer[group] if hasattr(part, "mu"))
    return int(moments.count), moments


@functools.cache
def late_steps():
    of = late()
    return (of, *steps(of, 4))


def test_until_it_starts_a_group_stays_and_the_others_train_as_if_it_was_frozen():
    _, states, metrics = late_steps()
    frozen = dataclasses.replace(LATE, frozen=("(image|text)/.*",))
    alone, alone_metrics = steps(tiny.task(optimizer=frozen, **ONE), START)
    for k in range(START + 1):
        for tower in ("image", "text"):
            jax.tree.map(
                np.testing.assert_array_equal, states[k].params[tower], states[0].params[tower]
            )
            average = states[k].average[tower]
            jax.tree.map(np.testing.assert_array_equal, average, states[0].params[tower])
        count, moments = adam_count(states[k], "towers")
        assert count == 0
        assert all(np.all(leaf == 0) for leaf in jax.tree.leaves((moments.mu, moments.nu)))
        assert tiny.distance(states[k].params, alone[k].params) < 1e-6
    for logged, expected in zip(metrics, alone_metrics, strict=False):
        assert logged["gradient_norm"] == pytest.approx(expected["gradient_norm"], rel=1e-5)
        assert logged["groups/towers/gradient_norm"] == 0
        assert logged["groups/towers/learning_rate"] == 0
        assert logged["groups/towers/skipped_steps"] == 0


def test_a_group_that_starts_begins_its_schedule_moments_and_average():
    _, states, metrics = late_steps()
    assert [adam_count(s, "towers")[0] for s in states] == [0, 0, 0, 1, 2]
    rates = [row["groups/towers/learning_rate"] for row in metrics]
    left = tiny.STEPS - START
    own = [0.01 * float(SCHEDULE(jnp.int32(k), left)) for k in range(2)]
    np.testing.assert_allclose(rates, [0, 0, *own], rtol=1e-6)
    # The first step of Adam is the sign of the gradient, but for epsilon: from its own bias
    # correction, and with an average that follows at once.
    fresh = late(start=0)
    begun = tiny.state(fresh, **ONE)._replace(params=states[START].params)
    after, _ = jax.jit(make_step(fresh))(begun, tiny.batch(START), tiny.hyper())
    factor = float(SCHEDULE(jnp.int32(0), left)) / float(SCHEDULE(jnp.int32(0), tiny.STEPS))
    was = states[START].params["text"]
    moved = jax.tree.map(lambda a, b: np.asarray(a) - b, states[START + 1].params["text"], was)
    expected = jax.tree.map(lambda a, b: factor * (np.asarray(a) - b), after.params["text"], was)
    for keys, value in leaves(moved):
        np.testing.assert_allclose(value, dict(leaves(expected))[keys], atol=2e-6)
    share = 1 - 1 / 10
    for keys, value in leaves(states[START + 1].average["text"]):
        follows = dict(leaves(was))[keys] + share * dict(leaves(moved))[keys]
        np.testing.assert_allclose(value, follows, atol=1e-6)


def test_the_program_before_the_start_computes_the_same_with_less():
    of, states, metrics = late_steps()
    waiting = of.waiting(START - 1)
    assert waiting == {"towers"}
    assert of.waiting(START) == frozenset()
    step = jax.jit(make_step(of, waiting))
    after, logged = step(states[1], tiny.batch(1), tiny.hyper())
    assert tiny.distance(after.params, states[2].params) < 1e-6
    assert tiny.distance(after.optimizer, states[2].optimizer) < 1e-6
    assert logged.keys() == metrics[1].keys()
    for name, value in logged.items():
        assert value == pytest.approx(metrics[1][name], rel=1e-5), name
    programs = (jax.jit(make_step(of, w)) for w in (waiting, frozenset()))
    first, batch = states[0], tiny.batch()
    short, long = (
        p.lower(first, batch, tiny.hyper()).compile().cost_analysis()["flops"] for p in programs
    )
    assert short < 0.6 * long  # neither of the two products of the backward pass


def test_steps_without_a_valid_example_do_not_count_for_a_group_that_waits():
    of, (first, *_), _ = late_steps()
    nothing = tiny.batch(valid=np.zeros(tiny.BATCH, bool))
    for waiting in (frozenset(), of.waiting(0)):
        after, _ = jax.jit(make_step(of, waiting))(first, nothing, tiny.hyper())
        assert int(after.skipped) == 1
        assert {name: int(n) for name, n in after.group_skipped.items()} == {
            "heads": 1,
            "towers": 0,
        }


@dataclasses.dataclass(frozen=True, kw_only=True)
class Broken(Objective, name="test_broken"):
    """Its gradient is not a number."""

    def __call__(self, ctx, batch, key):
        return Result(jnp.sum(ctx.run(["text/embedding"])["text/embedding"]) * jnp.nan, {})


def test_a_group_without_finite_gradients_stays_and_the_others_go_on():
    objectives = {
        "contrastive": SoftmaxContrastive(trains=("rest",)),
        "broken": Broken(trains=("text",)),
    }
    groups = {"text": Group(parameters="text/.*"), "rest": Group(parameters="(?!text/).*")}
    (first, second), metrics = steps(tiny.task(objectives, ADAM, groups=groups, **ONE), 1)
    assert np.array_equal(first.params["text"]["embedding"], second.params["text"]["embedding"])
    image = [s.params["image"]["patch_embedding"] for s in (first, second)]
    assert not np.array_equal(*image)
    assert metrics[0]["groups/text/skipped_steps"] == 1
    assert metrics[0]["groups/rest/skipped_steps"] == 0
    assert metrics[0]["skipped_steps"] == 1


# --- What objectives keep -------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True, kw_only=True)
class Queue(Objective, name="test_queue"):
    """Keeps the last embeddings, as MoCo does, and pushes new ones away from them."""

    def state(self):
        return {"queue": Kept((16, 16), ("none", "embed")), "count": Kept((), (), jnp.int32)}

    def __call__(self, ctx, batch, key):
        made = ctx.run(["image/embedding"])["image/embedding"]
        loss = jnp.mean(jnp.square(made @ ctx.state["queue"].T))
        queue = jnp.concatenate([made, ctx.state["queue"]])[: len(ctx.state["queue"])]
        return Result(loss, {}, {"queue": queue, "count": ctx.state["count"] + len(made)})


@pytest.mark.parametrize("accumulate", [1, 4])
def test_what_an_objective_keeps_is_there_in_the_next_step(accumulate):
    of = tiny.task({"queue": Queue()}, ADAM, accumulate=accumulate, **ONE)
    (first, second, third), _ = steps(of, 2)
    assert np.all(first.objectives["queue"]["queue"] == 0)
    assert [int(s.objectives["queue"]["count"]) for s in (first, second, third)] == [0, 8, 16]
    new, old = third.objectives["queue"]["queue"][:8], third.objectives["queue"]["queue"][8:]
    np.testing.assert_array_equal(old, second.objectives["queue"]["queue"][:8])
    outputs, _ = of.model.apply(Variables(second.params, {}), tiny.batch(1))
    np.testing.assert_allclose(new, outputs["image/embedding"], atol=1e-6)
