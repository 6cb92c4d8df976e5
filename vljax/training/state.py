"""What a step trains, and how."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh, NamedSharding
from jaxtyping import Array, Int

from vljax.models.assembly import Model, Variables
from vljax.models.parameters import merge, select, select_like
from vljax.objectives.objective import Objective, Scalar
from vljax.optim import Optimizer, place
from vljax.parallel.rules import parameter_shardings, replicated

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


# --- What a training run carries from step to step ------------------------------------------------


class TrainState(NamedTuple):
    """All arrays that a checkpoint holds."""

    step: Int[Array, ""]
    """Batches consumed."""
    skipped: Int[Array, ""]
    """Steps among them without finite gradients or valid examples: nothing was updated."""
    skipped_in_a_row: Int[Array, ""]
    """How many of the last steps were skipped, without another between them."""
    params: dict[str, Any]
    average: dict[str, Any]
    """Moving average of the parameters that are trained; empty where the recipe has none."""
    state: dict[str, Any]
    """The model's state that is not optimized."""
    optimizer: dict[str, Any]
    """Optimizer state of each group of parameters that is trained together, by its number."""


def create(variables: Variables, task: Task) -> TrainState:
    """The state before the first step."""
    params = variables.params
    zero = jnp.zeros((), jnp.int32)
    optimizer = {
        str(i): task.transformation(pattern, params).init(task.trained(pattern, params))
        for i, pattern in enumerate(task.groups)
    }
    # A copy: the step is given both to overwrite.
    average = jax.tree.map(jnp.copy, averaged(task.optimizer, params))
    return TrainState(zero, zero, zero, params, average, variables.state, optimizer)


def averaged(optimizer: Optimizer, params: dict[str, Any]) -> dict[str, Any]:
    """The parameters that have a moving average."""
    if optimizer.ema_decay is None:
        return {}
    return select(".*", params, frozen=optimizer.frozen)


def evaluated(state: TrainState) -> Variables:
    """The variables that a run is judged by: averaged ones where there is an average."""
    return Variables(merge(state.params, state.average), state.state)


def shardings(
    shapes: TrainState, task: Task, mesh: Mesh, fsdp_min_size: int = 0, updates: Any = None
) -> Any:
    """A sharding for every array: parameters by the rules, moments as updates, the rest whole.

    Args:
      shapes: the state as shapes and types.
      task: what they belong to.
      mesh: the devices.
      fsdp_min_size: elements below which `fsdp` leaves a parameter whole.
      updates: mirrors the parameters with the shardings of their updates; None: as parameters.
    """
    whole = replicated(mesh)
    params = parameter_shardings(task.model.axes, shapes.params, mesh, fsdp_min_size)
    moments = params if updates is None else updates
    optimizer = {
        str(i): place(
            shapes.optimizer[str(i)], task.trained(pattern, shapes.params), moments, whole
        )
        for i, pattern in enumerate(task.groups)
    }
    placed = {
        "params": params,
        "average": select_like(params, shapes.average),
        "optimizer": optimizer,
    }
    rest = {name: getattr(shapes, name) for name in TrainState._fields if name not in placed}
    return shapes._replace(**placed, **jax.tree.map(lambda _: whole, rest))


def abstract(shapes: TrainState, placed: Any) -> TrainState:
    """Shapes, types and shardings together, as a checkpoint is restored onto."""

    def combine(shape: jax.ShapeDtypeStruct, sharding: NamedSharding) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(shape.shape, shape.dtype, sharding=sharding)

    return jax.tree.map(combine, shapes, placed)
