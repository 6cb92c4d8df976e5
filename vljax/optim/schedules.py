"""Learning-rate schedules, as factors of the peak learning rate."""

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
    """Base of schedules: the factor of the peak learning rate at a step, after a linear warm-up.

    A new schedule implements `after_warmup`:

    >>> import jax.numpy as jnp
    >>> @dataclass(frozen=True)
    ... class WarmupHalf(Schedule, name="half"):
    ...     def after_warmup(self, step, steps):
    ...         return jnp.where(self.done(step, steps) < 0.5, 1.0, 0.5)
    >>> [float(WarmupHalf(2)(jnp.array(step), steps=6)) for step in range(6)]
    [0.5, 1.0, 1.0, 1.0, 0.5, 0.5]
    >>> del Schedule.members["half"]
    """

    warmup_steps: int = 0
    """Length of the linear warm-up. Step 0 already has 1 / warmup_steps of the peak."""

    def problems(self) -> Iterator[tuple[str, str]]:
        if self.warmup_steps < 0:
            yield "warmup_steps", f"must be at least 0, not {self.warmup_steps}"

    def problems_in(self, steps: int) -> Iterator[tuple[str, str]]:
        """The problems of the schedule in a run of that many steps, as (field, message)."""
        if self.warmup_steps >= steps:
            yield "warmup_steps", f"{self.warmup_steps} leaves nothing of a run of {steps} steps"

    def __call__(self, step: Int[Array, ""], steps: int) -> Float[Array, ""]:
        """The factor at step `step` (from 0) in a run of `steps` steps."""
        step = step.astype(float)  # float64 where JAX has it enabled
        warmup = jnp.minimum((step + 1) / max(self.warmup_steps, 1), 1.0)
        return warmup * self.after_warmup(step, steps)

    @abc.abstractmethod
    def after_warmup(self, step: Float[Array, ""], steps: int) -> Float[Array, ""]:
        """The factor without the warm-up, which multiplies it; `step` is that of the run."""

    def done(self, step: Float[Array, ""], steps: int) -> Float[Array, ""]:
        """The fraction of the steps after the warm-up that are done, in [0, 1]."""
        return jnp.clip((step - self.warmup_steps) / (steps - self.warmup_steps), 0, 1)


def fraction_problems(name: str, value: float) -> Iterator[tuple[str, str]]:
    """A problem if the value of a field is not in [0, 1]."""
    if not 0 <= value <= 1:
        yield name, f"must be in [0, 1], not {value}"


# --- Schedules with one curve after the warm-up ---------------------------------------------------


@dataclass(frozen=True)
class WarmupConstant(Schedule, name="constant"):
    """Linear warm-up, then the peak.

    >>> import jax.numpy as jnp
    >>> schedule = WarmupConstant(warmup_steps=2)
    >>> [round(float(schedule(jnp.array(step), steps=4)), 2) for step in range(4)]
    [0.5, 1.0, 1.0, 1.0]
    """

    def after_warmup(self, step: Float[Array, ""], steps: int) -> Float[Array, ""]:
        return jnp.ones(())


@dataclass(frozen=True)
class WarmupCosine(Schedule, name="cosine"):
    """Linear warm-up, then half a cosine down (Loshchilov & Hutter 2017, eq. 5).

    >>> import jax.numpy as jnp
    >>> schedule = WarmupCosine(warmup_steps=1)
    >>> [round(float(schedule(jnp.array(step), steps=5)), 2) for step in range(5)]
    [1.0, 1.0, 0.85, 0.5, 0.15]
    """

    final: float = 0.0
    """Factor at the end of the run."""

    def problems(self) -> Iterator[tuple[str, str]]:
        yield from super().problems()
        yield from fraction_problems("final", self.final)

    def after_warmup(self, step: Float[Array, ""], steps: int) -> Float[Array, ""]:
        wave = 0.5 * (1 + jnp.cos(jnp.pi * self.done(step, steps)))
        return self.final + (1 - self.final) * wave


@dataclass(frozen=True)
class WarmupLinear(Schedule, name="linear"):
    """Linear warm-up, then a linear fall.

    >>> import jax.numpy as jnp
    >>> schedule = WarmupLinear(warmup_steps=2)
    >>> [round(float(schedule(jnp.array(step), steps=6)), 2) for step in range(6)]
    [0.5, 1.0, 1.0, 0.75, 0.5, 0.25]
    """

    final: float = 0.0
    """Factor at the end of the run."""

    def problems(self) -> Iterator[tuple[str, str]]:
        yield from super().problems()
        yield from fraction_problems("final", self.final)

    def after_warmup(self, step: Float[Array, ""], steps: int) -> Float[Array, ""]:
        return self.final + (1 - self.final) * (1 - self.done(step, steps))


@dataclass(frozen=True)
class WarmupRsqrt(Schedule, name="rsqrt"):
    """Linear warm-up, then 1 / sqrt(1 + steps since / timescale), then a linear fall to 0.

    Zhai et al. 2022 (Scaling Vision Transformers), section 3.5, in the form of big_vision's
    `create_learning_rate_schedule`: the curve starts at the peak for any warm-up.

    >>> import jax.numpy as jnp
    >>> schedule = WarmupRsqrt(warmup_steps=1, timescale=1)
    >>> [round(float(schedule(jnp.array(step), steps=5)), 2) for step in range(5)]
    [1.0, 1.0, 0.71, 0.58, 0.5]
    """

    timescale: int = 10_000
    """Number of steps after the warm-up at which the factor is 1 / sqrt(2)."""
    cooldown_steps: int = 0
    """Number of last steps in which the factor is multiplied by a linear fall to 0."""

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


# --- Schedules that are constant for long ---------------------------------------------------------


@dataclass(frozen=True)
class WarmupStableDecay(Schedule, name="wsd"):
    """Linear warm-up, the peak for most of the run, then a fall (Hu et al. 2024, MiniCPM).

    Until the fall, runs of different lengths are the same. A workdir keeps its `steps`, though.

    >>> import jax.numpy as jnp
    >>> schedule = WarmupStableDecay(decay_fraction=0.5)
    >>> [round(float(schedule(jnp.array(step), steps=4)), 2) for step in range(4)]
    [1.0, 1.0, 1.0, 0.5]
    """

    decay_fraction: float = 0.2
    """Length of the fall, as a fraction of the run."""
    decay_shape: Literal["linear", "one_minus_sqrt"] = "linear"
    """The fall: 1 - x or 1 - sqrt(x), where x is the fraction done (Hägele et al. 2024)."""
    final: float = 0.0
    """Factor at the end of the run."""

    def problems(self) -> Iterator[tuple[str, str]]:
        yield from super().problems()
        if not 0 < self.decay_fraction <= 1:
            yield "decay_fraction", f"must be in (0, 1], not {self.decay_fraction}"
        yield from fraction_problems("final", self.final)

    def problems_in(self, steps: int) -> Iterator[tuple[str, str]]:
        yield from super().problems_in(steps)
        left, asked = steps - self.warmup_steps, self.decay_steps(steps)
        if asked > left > 0:
            fall = f"{self.decay_fraction} of {steps} steps"
            yield "decay_fraction", f"{fall} is more than the {left} after the warm-up"

    def decay_steps(self, steps: int) -> int:
        """The number of steps of the fall in a run of `steps` steps."""
        return max(round(self.decay_fraction * steps), 1)

    def after_warmup(self, step: Float[Array, ""], steps: int) -> Float[Array, ""]:
        length = self.decay_steps(steps)
        done = jnp.clip((step - (steps - length)) / length, 0, 1)
        fallen = done if self.decay_shape == "linear" else jnp.sqrt(done)
        return self.final + (1 - self.final) * (1 - fallen)


@dataclass(frozen=True)
class WarmupSteps(Schedule, name="step"):
    """Linear warm-up, then constant factors that change at given steps.

    >>> import jax.numpy as jnp
    >>> schedule = WarmupSteps(boundaries=(1, 3), factors=(0.5, 0.1))
    >>> [round(float(schedule(jnp.array(step), steps=5)), 2) for step in range(5)]
    [1.0, 0.5, 0.5, 0.1, 0.1]
    """

    boundaries: tuple[int, ...] = ()
    """The steps (from 0) at which the factors begin, rising."""
    factors: tuple[float, ...] = ()
    """For each boundary, a factor of the peak (not of the factor before)."""

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


__all__ = [
    "Schedule",
    "WarmupConstant",
    "WarmupCosine",
    "WarmupLinear",
    "WarmupRsqrt",
    "WarmupStableDecay",
    "WarmupSteps",
]
