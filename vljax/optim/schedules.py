"""The kind of learning-rate schedules, and the rise that all of them begin with."""

from __future__ import annotations

import abc
import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

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


# --- Schedules that fall along one curve after the warm-up ----------------------------------------


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


# --- Schedules that are constant between changes --------------------------------------------------


@dataclass(frozen=True)
class WarmupStableDecay(Schedule, name="wsd"):
    """A linear rise, the peak for most of the run, then a fall (Hu et al. 2024, MiniCPM).

    Until the fall, runs of different lengths are the same; a workdir keeps its `steps`, though.
    """

    decay_fraction: float = 0.2
    """Part of the run, at its end, in which the factor falls."""
    decay_shape: Literal["linear", "one_minus_sqrt"] = "linear"
    """The fall: 1 - x or 1 - sqrt(x), x being the part of it that is done (Hägele et al. 2024)."""
    final: float = 0.0
    """Factor that the fall ends at."""

    def problems(self) -> Iterator[tuple[str, str]]:
        yield from super().problems()
        if not 0 < self.decay_fraction <= 1:
            yield "decay_fraction", f"must be in (0, 1], not {self.decay_fraction}"
        yield from not_a_part("final", self.final)

    def problems_in(self, steps: int) -> Iterator[tuple[str, str]]:
        yield from super().problems_in(steps)
        left, asked = steps - self.warmup_steps, self.decay_steps(steps)
        if asked > left > 0:
            fall = f"{self.decay_fraction} of {steps} steps"
            yield "decay_fraction", f"{fall} is more than the {left} after the warm-up"

    def decay_steps(self, steps: int) -> int:
        """The length of the fall in a run of `steps` steps."""
        return max(round(self.decay_fraction * steps), 1)

    def after_warmup(self, step: Float[Array, ""], steps: int) -> Float[Array, ""]:
        length = self.decay_steps(steps)
        done = jnp.clip((step - (steps - length)) / length, 0, 1)
        fallen = done if self.decay_shape == "linear" else jnp.sqrt(done)
        return self.final + (1 - self.final) * (1 - fallen)


@dataclass(frozen=True)
class WarmupSteps(Schedule, name="step"):
    """A linear rise, then one factor after another."""

    boundaries: tuple[int, ...] = ()
    """The steps from which the factors hold, from 0, rising."""
    factors: tuple[float, ...] = ()
    """One of the peak for each boundary (not of the factor before)."""

    def problems(self) -> Iterator[tuple[str, str]]:
        yield from super().problems()
        if not self.boundaries:
            yield "boundaries", "names no step; use the schedule 'constant' or give some"
        if any(later <= earlier for earlier, later in itertools.pairwise((0, *self.boundaries))):
            yield "boundaries", f"must rise and be positive, not {self.boundaries}"
        if len(self.factors) != len(self.boundaries):
            counts = f"{len(self.factors)} for {len(self.boundaries)} boundaries"
            yield "factors", f"{counts}; give one for each"
        for i, value in enumerate(self.factors):
            if value < 0:
                yield f"factors.{i}", f"must be at least 0, not {value}"

    def problems_in(self, steps: int) -> Iterator[tuple[str, str]]:
        yield from super().problems_in(steps)
        for i, boundary in enumerate(self.boundaries):
            if boundary >= steps:
                yield f"boundaries.{i}", f"{boundary} is not reached in a run of {steps} steps"

    def after_warmup(self, step: Float[Array, ""], steps: int) -> Float[Array, ""]:
        passed = jnp.searchsorted(jnp.asarray(self.boundaries, step.dtype), step, side="right")
        return jnp.asarray((1.0, *self.factors), step.dtype)[passed]


# --- Learning-rate schedules, as factors of the peak ----------------------------------------------

__all__ = [
    "Schedule",
    "WarmupConstant",
    "WarmupCosine",
    "WarmupLinear",
    "WarmupRsqrt",
    "WarmupStableDecay",
    "WarmupSteps",
]
