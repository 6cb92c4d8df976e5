"""Groups of parameters with optimizers of their own, and what objectives keep between steps."""

import dataclasses
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
