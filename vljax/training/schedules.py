"""Learning-rate schedules, as factors of the peak."""

from __future__ import annotations

import abc
from collections.abc import Iterator
from dataclasses import dataclass

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from vljax.config import Component


class Schedule(Component, abc.ABC):
    """Kind of components that map a step to a factor of the peak learning rate."""

    @abc.abstractmethod
    def __call__(self, step: Int[Array, ""], steps: int) -> Float[Array, ""]:
        """The factor of step `step` (from 0) in a run of `steps` steps."""

    def problems_in(self, steps: int) -> Iterator[tuple[str, str]]:
        """What is wrong with the schedule in a run of that many steps."""
        yield from ()


@dataclass(frozen=True)
class WarmupCosine(Schedule, name="cosine"):
    """A linear rise, then a fall along half a cosine (Loshchilov & Hutter 2017, eq. 5)."""

    warmup_steps: int = 0
    """Steps until the peak; the first one already takes a part of it."""
    final: float = 0.0
    """Factor that the fall ends at."""

    def problems(self) -> Iterator[tuple[str, str]]:
        if self.warmup_steps < 0:
            yield "warmup_steps", f"must be at least 0, not {self.warmup_steps}"
        if not 0 <= self.final <= 1:
            yield "final", f"must be in [0, 1], not {self.final}"

    def problems_in(self, steps: int) -> Iterator[tuple[str, str]]:
        if self.warmup_steps >= steps:
            yield "warmup_steps", f"{self.warmup_steps} leaves nothing of a run of {steps} steps"

    def __call__(self, step: Int[Array, ""], steps: int) -> Float[Array, ""]:
        step = step.astype(jnp.float32)
        warmup = jnp.minimum((step + 1) / max(self.warmup_steps, 1), 1.0)
        done = jnp.clip((step - self.warmup_steps) / (steps - self.warmup_steps), 0, 1)
        return warmup * (self.final + (1 - self.final) * 0.5 * (1 + jnp.cos(jnp.pi * done)))
