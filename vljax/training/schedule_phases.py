"""Schedules that are constant between changes."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import jax.numpy as jnp
from jaxtyping import Array, Float

from vljax.training.schedule_base import Schedule, not_a_part


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
