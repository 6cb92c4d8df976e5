"""What a training run carries from step to step."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import optax
from jax.sharding import Mesh, NamedSharding
from jaxtyping import Array, Int

from vljax.models.assembly import Variables
from vljax.models.layout import select, select_like
from vljax.parallel.rules import parameter_shardings, replicated


class TrainState(NamedTuple):
    """All arrays that a checkpoint holds."""

    step: Int[Array, ""]
    """Batches consumed."""
    skipped: Int[Array, ""]
    """Steps among them without finite gradients or valid examples: nothing was updated."""
    params: dict[str, Any]
    state: dict[str, Any]
    """The model's state that is not optimized."""
    optimizer: dict[str, Any]
    """Optimizer state of each group of parameters that is trained together, by its number."""


def create(
    variables: Variables, transformation: optax.GradientTransformation, groups: tuple[str, ...]
) -> TrainState:
    """The state before the first step; `groups` are the patterns of what is trained together."""
    zero = jax.numpy.zeros((), jax.numpy.int32)
    optimizer = {
        str(i): transformation.init(select(pattern, variables.params))
        for i, pattern in enumerate(groups)
    }
    return TrainState(zero, zero, variables.params, variables.state, optimizer)


def shardings(
    shapes: TrainState,
    axes: dict[str, Any],
    transformation: optax.GradientTransformation,
    groups: tuple[str, ...],
    mesh: Mesh,
) -> Any:
    """A sharding for every array: parameters by the rules, their moments alike, the rest whole.

    Args:
      shapes: the state as shapes and types.
      axes: mirrors the parameters with logical axis names.
    """
    whole = replicated(mesh)
    params = parameter_shardings(axes, shapes.params, mesh)

    def place(i: int, pattern: str) -> Any:
        return optax.tree_map_params(
            transformation,
            lambda _, sharding: sharding,
            shapes.optimizer[str(i)],
            select_like(params, select(pattern, shapes.params)),
            transform_non_params=lambda _: whole,
        )

    optimizer = {str(i): place(i, pattern) for i, pattern in enumerate(groups)}
    placed = {"params": params, "optimizer": optimizer}
    rest = {name: jax.tree.map(lambda _: whole, getattr(shapes, name)) for name in _UNSPLIT}
    return shapes._replace(**placed, **rest)


_UNSPLIT = ("step", "skipped", "state")


def abstract(shapes: TrainState, placed: Any) -> TrainState:
    """Shapes, types and shardings together, as a checkpoint is restored onto."""

    def combine(shape: jax.ShapeDtypeStruct, sharding: NamedSharding) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(shape.shape, shape.dtype, sharding=sharding)

    return jax.tree.map(combine, shapes, placed)
