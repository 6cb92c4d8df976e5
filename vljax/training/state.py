"""What is trained (`Task`), and the arrays that a step updates (`TrainState`)."""

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
from vljax.optim import Optimizer, state_shardings
from vljax.parallel.rules import parameter_shardings, replicated

Tree = dict[str, Any]


@dataclass(frozen=True)
class Task:
    """A model, its objectives, and its optimizer."""

    model: Model
    objectives: Mapping[str, Objective]
    optimizer: Optimizer
    steps: int
    """Length of the run, for the schedule."""
    accumulate: int = 1
    """Number of parts that a batch is computed in, one after the other."""
    mesh: Mesh | None = None
    """The devices; None for one device."""
    shardings: Tree | None = None
    """Mirrors the parameters with their shardings; None leaves them to the compiler."""
    updates: Tree | None = None
    """Mirrors the parameters with the shardings of gradients and moments."""

    @property
    def groups(self) -> tuple[str, ...]:
        """The distinct patterns of parameters that objectives train, in their order."""
        return tuple(dict.fromkeys(o.trains for o in self.objectives.values()))

    @property
    def scalars(self) -> dict[str, Scalar]:
        """The learned scalars of all objectives."""
        return {k: v for o in self.objectives.values() for k, v in o.scalars().items()}

    def trained(self, pattern: str, params: Tree) -> Tree:
        """The parameters of a group: those that match its pattern and are not frozen."""
        return select(pattern, params, "trains", frozen=self.optimizer.frozen)

    def transformation(self, pattern: str, params: Tree) -> optax.GradientTransformation:
        """The transformation from the gradients of a group to the direction of its step."""
        axes = select_like(self.model.axes, self.trained(pattern, params))
        return self.optimizer.transformation(axes)


class TrainState(NamedTuple):
    """All arrays of a checkpoint."""

    step: Int[Array, ""]
    """Number of batches consumed."""
    skipped: Int[Array, ""]
    """Number of steps without finite gradients or valid examples; they updated nothing."""
    skipped_in_a_row: Int[Array, ""]
    """How many of the last steps were skipped without another step between them."""
    params: dict[str, Any]
    average: dict[str, Any]
    """EMA parameters: the moving average of the trained ones; empty if the recipe has none."""
    state: dict[str, Any]
    """The model's state that is not optimized."""
    optimizer: dict[str, Any]
    """Optimizer state by the number of the group of parameters."""


def create(variables: Variables, task: Task) -> TrainState:
    """The state before the first step."""
    params = variables.params
    zero = jnp.zeros((), jnp.int32)
    optimizer = {
        str(i): task.transformation(pattern, params).init(task.trained(pattern, params))
        for i, pattern in enumerate(task.groups)
    }
    # A copy, because the step's arguments are donated: no buffer may be given twice.
    average = jax.tree.map(jnp.copy, ema_parameters(task.optimizer, params))
    return TrainState(zero, zero, zero, params, average, variables.state, optimizer)


def ema_parameters(optimizer: Optimizer, params: dict[str, Any]) -> dict[str, Any]:
    """The parameters that have a moving average."""
    if optimizer.ema_decay is None:
        return {}
    return select(".*", params, frozen=optimizer.frozen)


def evaluation_variables(state: TrainState) -> Variables:
    """The variables to evaluate: EMA parameters where there are some, else the parameters."""
    return Variables(merge(state.params, state.average), state.state)


def shardings(
    shapes: TrainState, task: Task, mesh: Mesh, fsdp_min_size: int = 0, updates: Any = None
) -> Any:
    """A sharding for every array of the state.

    Parameters are sharded by the rules, moments as `updates`, and all else is replicated.

    Args:
      shapes: the state as shapes and types.
      task: the task of the state.
      mesh: the devices.
      fsdp_min_size: parameters with fewer elements are not split by `fsdp`.
      updates: mirrors the parameters with the shardings of their updates; None: as parameters.
    """
    whole = replicated(mesh)
    params = parameter_shardings(task.model.axes, shapes.params, mesh, fsdp_min_size)
    moments = params if updates is None else updates
    optimizer = {}
    for number, pattern in enumerate(task.groups):
        trained = task.trained(pattern, shapes.params)
        transformation = task.transformation(pattern, shapes.params)
        state = shapes.optimizer[str(number)]
        optimizer[str(number)] = state_shardings(transformation, state, trained, moments, whole)
    sharded = {
        "params": params,
        "average": select_like(params, shapes.average),
        "optimizer": optimizer,
    }
    rest = {name: getattr(shapes, name) for name in TrainState._fields if name not in sharded}
    return shapes._replace(**sharded, **jax.tree.map(lambda _: whole, rest))


def abstract(shapes: TrainState, sharded: Any) -> TrainState:
    """Shapes, types and shardings in one tree, as a checkpoint is restored onto."""

    def combine(shape: jax.ShapeDtypeStruct, sharding: NamedSharding) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(shape.shape, shape.dtype, sharding=sharding)

    return jax.tree.map(combine, shapes, sharded)
