"""Late fusion: each stream decides by itself, and a rule combines the decisions."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import jax
import jax.numpy as jnp
from einops import rearrange
from flax import linen as nn
from jaxtyping import Array, Bool, Float

from vljax.models.compute import Call, Compute
from vljax.models.fusion.fusion import Fusion, aligned, pooled
from vljax.models.layers.basic import Linear
from vljax.models.node import Inputs
from vljax.models.numerics import widened
from vljax.models.parameters import with_axes


@dataclass(frozen=True, kw_only=True)
class Decision(Fusion, name="decision"):
    """Scores of classes by each stream alone, and combined: fusion at decision level.

    A linear map of each stream's pooled vector gives `NAME/STREAM_logits`, and a rule gives
    `NAME/logits` from p_s, their softmax, up to a constant for each example:

    - "vote": log of sum of w_s p_s (the sum rule of Kittler et al. 1998, weighted);
    - "product": sum of log p_s, a product of experts (Hinton 2002, eq. 1);
    - "maximum": log of the largest p_s of each class (the max rule of Kittler et al. 1998);
    - "stacking": a learned linear map of all log p_s (Wolpert 1992);
    - "agreement": as "product", and `NAME/decided`, [batch]: whether all streams have the same most
      likely class. Where they have not, or one has a tie, the model abstains.

    A `Classification` objective on each of the logits trains the streams as well as the rule.
    Classes exclude each other: a recipe with an objective of `loss="sigmoid"` is refused.

    >>> decision = Decision(streams=("image", "question"), classes=3129, rule="agreement")
    >>> list(decision.makes("answer"))
    ['answer/logits', 'answer/image_logits', 'answer/question_logits', 'answer/decided']
    """

    classes: int
    """Number of classes."""
    rule: Literal["vote", "product", "maximum", "stacking", "agreement"] = "vote"
    """How decisions are combined; see above."""
    weights: tuple[float, ...] | None = None
    """Of the streams in a vote, in their order, divided by their sum; None for learned ones, the
    softmax of parameters, which begin equal."""

    def problems(self) -> Iterator[tuple[str, str]]:
        yield from super().problems()
        if self.classes < 2:
            yield "classes", f"must be at least 2, not {self.classes}"
        if self.weights is None:
            return
        if self.rule != "vote":
            yield "weights", f"are for rule vote, not {self.rule}; leave them out"
        elif len(self.weights) != len(self.streams):
            sizes = f"{len(self.weights)} weights for {len(self.streams)} streams"
            yield "weights", f"{sizes}; give one for each"
        elif not min(self.weights) > 0:
            yield "weights", f"must be above 0, not {min(self.weights)}"

    def makes(self, name: str) -> dict[str, tuple[str, ...]]:
        # All need all streams, so that each has a row for each text also if it is asked for alone.
        products = [f"{name}/logits", *(f"{name}/{stream}_logits" for stream in self.streams)]
        if self.rule == "agreement":
            products.append(f"{name}/decided")
        return dict.fromkeys(products, self.streams)

    def module(self, compute: Compute, name: str) -> nn.Module:
        return DecisionModule(self, compute, name=name)


class DecisionModule(nn.Module):
    """Pooled vectors to logits in at least float32; see `Decision`."""

    config: Decision
    compute: Compute

    @nn.compact
    def __call__(self, inputs: Inputs, call: Call) -> dict[str, Array]:
        config = self.config
        streams, _ = aligned(inputs, config.streams, call)
        axes = ("embed", "classes")
        logits = [
            widened(Linear((config.classes,), axes, self.compute, name=f"{name}_logits")(vector))
            for name, vector in zip(config.streams, map(pooled, streams), strict=True)
        ]
        each = jnp.stack(logits, axis=1)
        made = {f"{self.name}/logits": self._combined(jax.nn.log_softmax(each))}
        for name, own in zip(config.streams, logits, strict=True):
            made[f"{self.name}/{name}_logits"] = own
        if config.rule == "agreement":
            made[f"{self.name}/decided"] = agreement(each)
        return made

    def _combined(self, log_p: Float[Array, "batch streams classes"]) -> Array:
        config, compute = self.config, self.compute
        if config.rule == "vote":
            if config.weights is None:
                zeros = with_axes(nn.initializers.zeros_init(), "none")
                learned = self.param("weights", zeros, log_p.shape[1:2], compute.param_dtype)
                log_w = jax.nn.log_softmax(widened(learned))
            else:
                fixed = jnp.asarray(config.weights, log_p.dtype)
                log_w = jnp.log(fixed / jnp.sum(fixed))
            return jax.nn.logsumexp(log_p + log_w[:, None], axis=1)
        if config.rule == "maximum":
            return jnp.max(log_p, axis=1)
        if config.rule == "stacking":
            features = rearrange(log_p, "batch streams classes -> batch (streams classes)")
            stacking = Linear((config.classes,), ("none", "classes"), compute, name="stacking")
            return widened(stacking(features))
        return jnp.sum(log_p, axis=1)


def agreement(logits: Float[Array, "batch streams classes"]) -> Bool[Array, "batch"]:
    """Whether all streams have the same class with the highest score, and none has a tie.

    >>> agreement(jnp.array([[[3.0, 1.0], [2.0, 1.0]], [[3.0, 1.0], [1.0, 2.0]]]))
    Array([ True, False], dtype=bool)
    """
    highest = logits == jnp.max(logits, axis=-1, keepdims=True)
    alone = jnp.all(jnp.sum(highest, axis=-1) == 1, axis=1)
    return alone & jnp.any(jnp.all(highest, axis=1), axis=-1)
