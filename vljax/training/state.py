"""What is trained (`Task`), and the arrays that a step updates (`TrainState`)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh, NamedSharding
from jaxtyping import Array, Float, Int

from vljax.models.assembly import Model, Variables
from vljax.models.low_rank import LowRank
from vljax.models.parameters import intersection, merge, select, select_like, union
from vljax.objectives.objective import Kept, Objective, Scalar
from vljax.optim import Group, Optimizer, state_shardings
from vljax.parallel.rules import parameter_shardings, replicated

Tree = dict[str, Any]


ONLY_GROUP = "0"
"""Name of the group of all parameters, which is there if a recipe names no groups."""


@dataclass(frozen=True)
class Task:
    """A model, its objectives, and its optimizers."""

    model: Model
    objectives: Mapping[str, Objective]
    optimizer: Optimizer
    """Of groups without an own one."""
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
    named_groups: Mapping[str, Group] = field(default_factory=dict)
    """The groups that the recipe names."""
    low_rank: LowRank = field(default_factory=LowRank)
    """Which kernels have low-rank factors; with any, all but the factors is frozen by default."""

    @property
    def groups(self) -> Mapping[str, Group]:
        """The groups of parameters by name; without named ones, a single group of all."""
        return self.named_groups or {ONLY_GROUP: Group()}

    def optimizer_of(self, group: str) -> Optimizer:
        """The optimizer of a group."""
        return self.groups[group].optim or self.optimizer

    def objectives_of(self, group: str) -> tuple[str, ...]:
        """The names of the objectives that train a group."""
        return tuple(n for n, o in self.objectives.items() if not o.trains or group in o.trains)

    @property
    def passes(self) -> dict[tuple[str, ...], tuple[str, ...]]:
        """The forward and backward passes of a step: objectives -> groups that exactly they train.

        Groups that the same objectives train share a pass.
        """
        found: dict[tuple[str, ...], tuple[str, ...]] = {}
        for group in self.groups:
            objectives = self.objectives_of(group)
            found[objectives] = (*found.get(objectives, ()), group)
        return found

    def schedule(self, group: str, step: Int[Array, ""]) -> Float[Array, ""]:
        """The factor of a group's learning rate in a step: its schedule begins when it does."""
        start, schedule = self.groups[group].start, self.optimizer_of(group).schedule
        if start == 0:
            return schedule(step, self.steps)
        return jnp.where(
            step < start, 0, schedule(jnp.maximum(step - start, 0), self.steps - start)
        )

    def waiting(self, step: int) -> frozenset[str]:
        """The groups that are not yet trained in a step."""
        return frozenset(name for name, group in self.groups.items() if group.waits(step))

    @property
    def scalars(self) -> dict[str, Scalar]:
        """The learned scalars of all objectives."""
        return {k: v for o in self.objectives.values() for k, v in o.scalars().items()}

    @property
    def kept(self) -> dict[str, dict[str, Kept]]:
        """What objectives keep from step to step, by the name of the objective."""
        return {name: kept for name, o in self.objectives.items() if (kept := o.state())}

    def trained(self, group: str, params: Tree) -> Tree:
        """The parameters of a group: those that match its pattern and are not frozen."""
        named = f"groups.{group}.parameters" if self.named_groups else "groups"
        frozen = self.optimizer_of(group).frozen
        found = select(self.groups[group].parameters, params, named, frozen=frozen)
        return intersection(found, self.low_rank.trained(params)) if self.low_rank.used else found

    def transformation(self, group: str, params: Tree) -> optax.GradientTransformation:
        """The transformation from the gradients of a group to the direction of its step."""
        axes = select_like(self.model.axes, self.trained(group, params))
        return self.optimizer_of(group).transformation(axes)


class TrainState(NamedTuple):
    """All arrays of a checkpoint."""

    step: Int[Array, ""]
    """Number of batches consumed."""
    skipped: Int[Array, ""]
    """Number of steps in which a group was not updated, for want of finite gradients or valid
    examples."""
    skipped_in_a_row: Int[Array, ""]
    """How many of the last steps were skipped without another step between them."""
    params: dict[str, Any]
    average: dict[str, Any]
    """EMA parameters: the moving average of the trained ones; empty if the recipe has none."""
    state: dict[str, Any]
    """The model's state that is not optimized."""
    optimizer: dict[str, Any]
    """Optimizer state by the name of the group of parameters."""
    objectives: dict[str, Any]
    """What objectives keep, by the name of the objective; empty if none keeps anything."""
    group_skipped: dict[str, Any]
    """Steps in which a named group was due and not updated; empty if no groups are named."""


def create(variables: Variables, task: Task) -> TrainState:
    """The state before the first step."""
    params = variables.params
    zero = jnp.zeros((), jnp.int32)
    optimizer = {
        group: task.transformation(group, params).init(task.trained(group, params))
        for group in task.groups
    }
    # A copy, because the step's arguments are donated: no buffer may be given twice.
    average = jax.tree.map(jnp.copy, ema_parameters(task, params))
    objectives = {
        name: {k: jnp.full(spec.shape, spec.initial, spec.dtype) for k, spec in kept.items()}
        for name, kept in task.kept.items()
    }
    skipped = {name: jnp.zeros((), jnp.int32) for name in task.named_groups}
    return TrainState(
        zero, zero, zero, params, average, variables.state, optimizer, objectives, skipped
    )


def ema_parameters(task: Task, params: dict[str, Any]) -> dict[str, Any]:
    """The parameters that have a moving average: those of groups whose optimizer has a decay."""
    average: dict[str, Any] = {}
    for group in task.groups:
        if task.optimizer_of(group).ema_decay is not None:
            average = union(average, task.trained(group, params))
    return average


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
    for group in task.groups:
        trained = task.trained(group, shapes.params)
        transformation = task.transformation(group, shapes.params)
        state = shapes.optimizer[group]
        optimizer[group] = state_shardings(transformation, state, trained, moments, whole)
    axes = {n: {k: spec.axes for k, spec in kept.items()} for n, kept in task.kept.items()}
    sharded = {
        "params": params,
        "average": select_like(params, shapes.average),
        "optimizer": optimizer,
        "objectives": parameter_shardings(axes, shapes.objectives, mesh, fsdp_min_size),
    }
    rest = {name: getattr(shapes, name) for name in TrainState._fields if name not in sharded}
    return shapes._replace(**sharded, **jax.tree.map(lambda _: whole, rest))


def abstract(shapes: TrainState, sharded: Any) -> TrainState:
    """Shapes, types and shardings in one tree, as a checkpoint is restored onto."""

    def combine(shape: jax.ShapeDtypeStruct, sharding: NamedSharding) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(shape.shape, shape.dtype, sharding=sharding)

    return jax.tree.map(combine, shapes, sharded)
