"""Optimizers: a direction from optax; learning rate and weight decay are applied here.

Peak learning rate and weight decay are traced inputs of the step (`Hyper`), so that runs that
differ only in them share a compiled program.
"""

from __future__ import annotations

import abc
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, UInt32

from vljax.config import Component
from vljax.training.schedules import Schedule, WarmupCosine

Params = dict[str, Any]


class Hyper(NamedTuple):
    """What may differ between runs of one compiled step."""

    learning_rate: Float[Array, ""]
    """The peak."""
    weight_decay: Float[Array, ""]
    seed: UInt32[Array, ""]


@dataclass(frozen=True, kw_only=True)
class Optimizer(Component, abc.ABC):
    """Kind of optimizers: a direction, scaled by a scheduled learning rate, with weight decay."""

    learning_rate: float = 1e-3
    """The peak."""
    weight_decay: float = 0.0
    """Decoupled (Loshchilov & Hutter 2019): a step takes off learning rate x this x value."""
    decay_rules: tuple[tuple[str, float], ...] = ((".*(kernel|embedding)", 1.0), (".*", 0.0))
    """Pattern and factor of the weight decay; the first that matches a parameter holds."""
    schedule: Schedule = field(default_factory=WarmupCosine)
    """The learning rate over time."""
    clip_norm: float | None = 1.0
    """Gradients longer than that, over all parameters, are scaled down to it."""

    def problems(self) -> Iterator[tuple[str, str]]:
        if self.learning_rate <= 0:
            yield "learning_rate", f"must be positive, not {self.learning_rate}"
        if self.weight_decay < 0:
            yield "weight_decay", f"must be at least 0, not {self.weight_decay}"
        if self.clip_norm is not None and self.clip_norm <= 0:
            yield "clip_norm", f"must be positive, or None for no clipping, not {self.clip_norm}"

    @abc.abstractmethod
    def direction(self) -> optax.GradientTransformation:
        """Gradients to a direction that still lacks learning rate and sign."""

    def transformation(self) -> optax.GradientTransformation:
        """Clipping and the direction."""
        if self.clip_norm is None:
            return self.direction()
        return optax.chain(optax.clip_by_global_norm(self.clip_norm), self.direction())


@dataclass(frozen=True, kw_only=True)
class AdamW(Optimizer, name="adamw"):
    """Adam with decoupled weight decay."""

    b1: float = 0.9
    """Decay of the mean of gradients."""
    b2: float = 0.999
    """Decay of the mean of their squares."""
    epsilon: float = 1e-8
    """Added to the root of the mean square."""

    def problems(self) -> Iterator[tuple[str, str]]:
        yield from super().problems()
        for name in ("b1", "b2"):
            if not 0 <= getattr(self, name) < 1:
                yield name, f"must be in [0, 1), not {getattr(self, name)}"
        if self.epsilon <= 0:
            yield "epsilon", f"must be positive, not {self.epsilon}"

    def direction(self) -> optax.GradientTransformation:
        return optax.scale_by_adam(self.b1, self.b2, self.epsilon)


def apply_direction(
    params: Params,
    direction: Params,
    learning_rate: Float[Array, ""],
    weight_decay: Float[Array, ""],
    factors: Params,
) -> Params:
    """Parameters after one step; `factors` mirrors them with factors of the weight decay."""

    def move(param: Array, toward: Array, factor: Any) -> Array:
        # A factor that is 0 everywhere leaves no trace in the program.
        decay = 0 if isinstance(factor, float) and factor == 0 else weight_decay * factor * param
        return jnp.asarray(param - learning_rate * (toward + decay), param.dtype)

    return jax.tree.map(move, params, direction, factors)
