"""The kind of learning-rate schedules, and the rise that all of them begin with."""

from __future__ import annotations

import abc
from collections.abc import Iterator
from dataclasses import dataclass

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from vljax.config import Component


@dataclass(frozen=True)
class Schedule(Component, abc.ABC):
    """Kind of components that map a step to a factor of the peak learning rate."""

    warmup_steps: int = 0
    """Steps until the peak, in a straight line; the first one already takes a part of it."""

    def problems(self) -> Iterator[tuple[str, str]]:
        if self.warmup_steps < 0:
            yield "warmup_steps", f"must be at least 0, not {self.warmup_steps}"

    def problems_in(self, steps: int) -> Iterator[tuple[str, str]]:
        """What is wrong with the schedule in a run of that many steps."""
        if self.warmup_steps >= steps:
            yield "warmup_steps", f"{self.warmup_steps} leaves nothing of a run of {steps} steps"

    def __call__(self, step: Int[Array, ""], steps: int) -> Float[Array, ""]:
        """The factor of step `step` (from 0) in a run of `steps` steps."""
        step = step.astype(float)  # float64 where JAX has it enabled
        warmup = jnp.minimum((step + 1) / max(self.warmup_steps, 1), 1.0)
        return warmup * self.after_warmup(step, steps)

    @abc.abstractmethod
    def after_warmup(self, step: Float[Array, ""], steps: int) -> Float[Array, ""]:
        """The factor apart from the warm-up, which multiplies it; steps count from its start."""

    def done(self, step: Float[Array, ""], steps: int) -> Float[Array, ""]:
        """The part of the steps after the warm-up that lies behind, in [0, 1]."""
        return jnp.clip((step - self.warmup_steps) / (steps - self.warmup_steps), 0, 1)


def not_a_part(name: str, value: float) -> Iterator[tuple[str, str]]:
    """A problem if a field is no factor in [0, 1]."""
    if not 0 <= value <= 1:
        yield name, f"must be in [0, 1], not {value}"
