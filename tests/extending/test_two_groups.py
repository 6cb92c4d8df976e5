"""A critic against two towers: each group of parameters has its own objective and optimizer."""

from dataclasses import dataclass
from itertools import pairwise

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from tests.extending import tiny
from vljax.objectives.classification import classification_loss
from vljax.objectives.objective import Objective, Result
from vljax.recipes import SGD, AdamW, Classifier, Group


@dataclass(frozen=True, kw_only=True)
class Tell(Objective, name="test_tell"):
    """The critic tells images from texts by their features; the towers learn to prevent it."""

    right: bool
    """Whether the critic shall be right."""

    def reads(self):
        return ("image/pooled", "text/pooled", "critic/logits")

    def __call__(self, ctx, batch, key):
        both = jnp.concatenate([ctx.run(self.reads())[name] for name in self.reads()[:2]])
        logits = ctx.run(("critic/logits",), given={"image/pooled": both})["critic/logits"]
        is_text = jnp.repeat(jnp.array([0, 1]), len(batch["valid"]))
        targets = is_text if self.right else 1 - is_text
        return Result(classification_loss(logits, targets, jnp.tile(batch["valid"], 2))[0], {})


def test_a_critic_learns_every_second_step():
    critic = Classifier(stream="image", classes=2, hidden=16)
    nodes = {"image": tiny.IMAGE, "text": tiny.TEXT, "critic": critic}
    objectives = {
        "critic": Tell(right=True, trains=("critic",)),
        "towers": Tell(right=False, trains=("towers",)),
    }
    groups = {
        "critic": Group(parameters="critic/.*", optim=SGD(learning_rate=0.1), every=2),
        "towers": Group(parameters="(image|text)/.*"),
    }
    run = tiny.prepared(nodes, objectives, optim=AdamW(), groups=groups)
    params, metrics = tiny.train(run, 4)

    def moved(name):
        trees = (jax.tree.leaves(each[name]) for each in params)
        return [any(map(np.any, map(np.subtract, *pair))) for pair in pairwise(trees)]

    assert moved("critic") == [True, False, True, False]
    assert [*moved("image"), *moved("text")] == 8 * [True]
    # Gradient descent: the first step is the clipped gradient times the group's own rate.
    first = metrics[0]
    step = jax.tree.map(np.subtract, params[1]["critic"], params[0]["critic"])
    length = first["groups/critic/learning_rate"] * min(first["groups/critic/gradient_norm"], 1)
    assert optax.tree.norm(step) == pytest.approx(length, rel=1e-4)
