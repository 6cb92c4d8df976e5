"""The kind of optimizers: a direction by optax, to be scaled by a learning rate."""

from __future__ import annotations

import abc
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

import optax
from jaxtyping import Array, Float, UInt32

from vljax.config import Component
from vljax.training.schedules import Schedule, WarmupCosine

Tree = dict[str, Any]
MomentType = Literal["float32", "bfloat16"] | None
"""Type that a moment is stored in; None: that of the parameter."""


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
    rate_rules: tuple[tuple[str, float], ...] = ((".*", 1.0),)
    """Pattern and factor of the learning rate; the first that matches a parameter holds."""
    layer_decay: float = 1.0
    """Factor of the learning rate from each block to the one before (Bao et al. 2022, BEiT)."""
    weight_decay: float = 0.0
    """Decoupled (Loshchilov & Hutter 2019): a step takes off learning rate x this x value."""
    decay_rules: tuple[tuple[str, float], ...] = ((".*(kernel|embedding)", 1.0), (".*", 0.0))
    """Pattern and factor of the weight decay; the first that matches a parameter holds."""
    schedule: Schedule = field(default_factory=WarmupCosine)
    """The learning rate over time."""
    clip_norm: float | None = 1.0
    """Gradients longer than that, over the parameters of a `trains` pattern, are scaled to it."""
    frozen: tuple[str, ...] = ()
    """Patterns of parameters that stay as they are: without gradients and optimizer state."""
    ema_decay: float | None = None
    """Share that a moving average of the parameters keeps in a step; evaluated where it is set."""

    def problems(self) -> Iterator[tuple[str, str]]:
        if self.learning_rate <= 0:
            yield "learning_rate", f"must be positive, not {self.learning_rate}"
        for i, (_, factor) in enumerate(self.rate_rules):
            if factor <= 0:
                yield f"rate_rules.{i}.1", f"must be positive, not {factor}; see frozen"
        if not 0 < self.layer_decay <= 1:
            yield "layer_decay", f"must be in (0, 1], not {self.layer_decay}"
        if self.weight_decay < 0:
            yield "weight_decay", f"must be at least 0, not {self.weight_decay}"
        if self.clip_norm is not None and self.clip_norm <= 0:
            yield "clip_norm", f"must be positive, or None for no clipping, not {self.clip_norm}"
        if self.ema_decay is not None and not 0 <= self.ema_decay < 1:
            yield "ema_decay", f"must be in [0, 1), or None for no average, not {self.ema_decay}"

    @abc.abstractmethod
    def direction(self, axes: Tree) -> optax.GradientTransformation:
        """Gradients to a direction that still lacks learning rate and sign.

        Args:
          axes: mirrors the parameters with tuples of logical axis names, by which an optimizer that
            treats matrices apart knows them, and layers that are scanned from their dimensions.
        """

    def transformation(self, axes: Tree) -> optax.GradientTransformation:
        """Clipping and the direction."""
        if self.clip_norm is None:
            return self.direction(axes)
        return optax.chain(optax.clip_by_global_norm(self.clip_norm), self.direction(axes))


def not_below_one(optimizer: Optimizer, *names: str) -> Iterator[tuple[str, str]]:
    """A problem for each of these fields that is no decay of a moment, in [0, 1)."""
    for name in names:
        if not 0 <= getattr(optimizer, name) < 1:
            yield name, f"must be in [0, 1), not {getattr(optimizer, name)}"
