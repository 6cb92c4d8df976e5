"""Schedules that fall along one curve after the warm-up."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import jax.numpy as jnp
from jaxtyping import Array, Float

from vljax.training.schedule_base import Schedule, not_a_part


@dataclass(frozen=True)
class WarmupConstant(Schedule, name="constant"):
    """A linear rise, then the peak."""

    def after_warmup(self, step: Float[Array, ""], steps: int) -> Float[Array, ""]:
        return jnp.ones(())


@dataclass(frozen=True)
class WarmupCosine(Schedule, name="cosine"):
    """A linear rise, then a fall along half a cosine (Loshchilov & Hutter 2017, eq. 5)."""

    final: float = 0.0
    """Factor that the fall ends at."""

    def problems(self) -> Iterator[tuple[str, str]]:
        yield from super().problems()
        yield from not_a_part("final", self.final)

    def after_warmup(self, step: Float[Array, ""], steps: int) -> Float[Array, ""]:
        wave = 0.5 * (1 + jnp.cos(jnp.pi * self.done(step, steps)))
        return self.final + (1 - self.final) * wave


@dataclass(frozen=True)
class WarmupLinear(Schedule, name="linear"):
    """A linear rise, then a linear fall."""

    final: float = 0.0
    """Factor that the fall ends at."""

    def problems(self) -> Iterator[tuple[str, str]]:
        yield from super().problems()
        yield from not_a_part("final", self.final)

    def after_warmup(self, step: Float[Array, ""], steps: int) -> Float[Array, ""]:
        return self.final + (1 - self.final) * (1 - self.done(step, steps))


@dataclass(frozen=True)
class WarmupRsqrt(Schedule, name="rsqrt"):
    """A linear rise, then 1 / sqrt(1 + steps since / timescale), then a linear fall to 0.

    Zhai et al. 2022 (Scaling Vision Transformers), section 3.5, in the form of big_vision's
    `create_learning_rate_schedule`: the curve begins at the peak whatever the warm-up.
    """

    timescale: int = 10_000
    """Steps after the warm-up until the factor is 1 / sqrt(2)."""
    cooldown_steps: int = 0
    """Last steps, in which the factor falls to 0 besides."""

    def problems(self) -> Iterator[tuple[str, str]]:
        yield from super().problems()
        if self.timescale < 1:
            yield "timescale", f"must be at least 1, not {self.timescale}"
        if self.cooldown_steps < 0:
            yield "cooldown_steps", f"must be at least 0, not {self.cooldown_steps}"

    def problems_in(self, steps: int) -> Iterator[tuple[str, str]]:
        yield from super().problems_in(steps)
        left = steps - self.warmup_steps
        if self.cooldown_steps > left:
            message = f"{self.cooldown_steps} is more than the {left} steps after the warm-up"
            yield "cooldown_steps", message

    def after_warmup(self, step: Float[Array, ""], steps: int) -> Float[Array, ""]:
        since = jnp.maximum(step - self.warmup_steps, 0)
        cooldown = jnp.minimum((steps - step) / max(self.cooldown_steps, 1), 1.0)
        return cooldown / jnp.sqrt(1 + since / self.timescale)
