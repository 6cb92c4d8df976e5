"""What a step trains, and how."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import optax
from jax.sharding import Mesh

from vljax.models.assembly import Model
from vljax.models.layout import select, select_like
from vljax.objectives.objective import Objective, Scalar
from vljax.training.optim import Optimizer

Tree = dict[str, Any]


@dataclass(frozen=True)
class Task:
    """A model, what it is trained on, and by which rule."""

    model: Model
    objectives: Mapping[str, Objective]
    optimizer: Optimizer
    steps: int
    """Length of the run, for the schedule."""
    accumulate: int = 1
    """Parts that a batch is computed in, one after the other."""
    mesh: Mesh | None = None
    """The devices; None for one."""
    shardings: Tree | None = None
    """Mirrors the parameters: where they are. None leaves that to the compiler."""
    updates: Tree | None = None
    """Mirrors the parameters: where gradients and moments are."""

    @property
    def groups(self) -> tuple[str, ...]:
        """The distinct patterns of parameters that objectives train, in their order."""
        return tuple(dict.fromkeys(o.trains for o in self.objectives.values()))

    @property
    def scalars(self) -> dict[str, Scalar]:
        """The learned scalars of all objectives."""
        return {k: v for o in self.objectives.values() for k, v in o.scalars().items()}

    def trained(self, pattern: str, params: Tree) -> Tree:
        """The parameters of a group: those of its pattern that are not frozen."""
        return select(pattern, params, "trains", frozen=self.optimizer.frozen)

    def transformation(self, pattern: str, params: Tree) -> optax.GradientTransformation:
        """From the gradients of a group to the direction of its step."""
        axes = select_like(self.model.axes, self.trained(pattern, params))
        return self.optimizer.transformation(axes)
