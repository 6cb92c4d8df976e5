"""Masked language modelling: an objective with a view that hides words."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from tests.extending import tiny
from vljax.objectives.classification import classification_loss
from vljax.objectives.objective import Objective, Result
from vljax.recipes import SGD, Classifier


@dataclasses.dataclass(frozen=True, kw_only=True)
class MaskedWords(Objective, name="test_masked_words"):
    """Predicts hidden words from the others (Devlin et al. 2019, BERT)."""

    logits: str = "words/logits"
    mask_id: int = 3
    share: float = 0.3

    def reads(self):
        return (self.logits,)

    def hidden(self, batch, keys):
        draw = jax.vmap(lambda key, row: jax.random.uniform(key, row.shape))(keys, batch["text"])
        return (draw < self.share) & batch["text_mask"]

    def __call__(self, ctx, batch, key):
        hidden = self.hidden(batch, ctx.row_keys("hidden"))

        def masked(batch, keys):
            return {"text": jnp.where(hidden, self.mask_id, batch["text"])}

        logits = ctx.run(self.reads(), view=masked)[self.logits]
        targets = jnp.where(hidden, batch["text"], -1).reshape(-1)
        valid = jnp.repeat(batch["valid"], hidden.shape[1])
        loss, accuracy = classification_loss(logits.reshape(len(targets), -1), targets, valid)
        return Result(loss, {"accuracy": accuracy})


def prepared(accumulate=1):
    nodes = {"text": tiny.TEXT, "words": Classifier(stream="text", classes=2048, features="tokens")}
    optim = SGD(learning_rate=0.5, momentum=0.9)
    return tiny.prepared(nodes, {"words": MaskedWords()}, optim=optim, accumulate=accumulate)


def test_hidden_words_are_learned_alike_in_parts():
    params, metrics = tiny.train(prepared(), 8)
    in_parts, _ = tiny.train(prepared(accumulate=2), 1)
    # New words are hidden in each step, so the loss falls by what is learned of all.
    assert metrics[-1]["words/loss"] < 0.8 * metrics[0]["words/loss"]
    moved, again = (jax.tree.map(np.subtract, each[1], each[0]) for each in (params, in_parts))
    for one, other in zip(jax.tree.leaves(moved), jax.tree.leaves(again), strict=True):
        assert np.linalg.norm(one - other) <= 1e-5 * max(np.linalg.norm(one), 1e-3)
