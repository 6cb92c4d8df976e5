"""Logical axes to mesh axes, by two tables: one for parameters, one for activations.

One table for both would misplace activations: `embed` is split for parameters (FSDP) and whole for
activations, where the batch takes that mesh axis.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import jax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

MeshAxes = str | tuple[str, ...] | None
Table = Mapping[str, MeshAxes]

_WHOLE = [
    *("length", "head_dim", "layers", "patch", "conv_in", "conv_out"),
    *("classes", "positions", "rank", "none"),
]

PARAMETERS: Table = {
    **dict.fromkeys(_WHOLE),
    "embed": "fsdp",
    "mlp": "tensor",
    "heads": "tensor",
    "vocab": "tensor",
}
ACTIVATIONS: Table = {
    **dict.fromkeys(_WHOLE),
    "batch": ("data", "fsdp"),
    "embed": None,
    "mlp": "tensor",
    "heads": "tensor",
    "vocab": "tensor",
}


def spec(axes: tuple[str, ...], shape: tuple[int, ...], table: Table, mesh: Mesh) -> PartitionSpec:
    """Where an array's axes go. An axis that its mesh axes do not divide stays whole.

    Raises:
      ValueError: for a logical name that the table lacks, a wrong number of names, or two axes of
        one array on the same mesh axis; JAX itself would replicate silently.
    """
    if len(axes) != len(shape):
        raise ValueError(f"{len(axes)} axis names {axes} for an array of shape {shape}")
    entries: list[MeshAxes] = []
    taken: set[str] = set()
    for name, size in zip(axes, shape, strict=True):
        if name not in table:
            raise ValueError(f"unknown logical axis {name!r} in {axes}; known: {sorted(table)}")
        target = table[name]
        members = (target,) if isinstance(target, str) else target or ()
        if taken & set(members):
            raise ValueError(f"two axes of {axes} go to the mesh axis {target!r}")
        taken |= set(members)
        parts = 1
        for member in members:
            parts *= mesh.shape[member]
        entries.append(target if size % parts == 0 else None)
    return PartitionSpec(*entries)


def parameter_shardings(axes: Any, shapes: Any, mesh: Mesh) -> Any:
    """A sharding for every parameter; `axes` mirrors `shapes` with tuples of logical names."""
    return jax.tree.map(
        lambda shape, names: NamedSharding(mesh, spec(names, shape.shape, PARAMETERS, mesh)),
        shapes,
        axes,
    )


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Batches are split along their first axis."""
    return NamedSharding(mesh, PartitionSpec(ACTIVATIONS["batch"]))


def replicated(mesh: Mesh) -> NamedSharding:
    """The same on every device."""
    return NamedSharding(mesh, PartitionSpec())


def constrain(mesh: Mesh) -> Callable[[jax.Array, tuple[str, ...]], jax.Array]:
    """A function that places an activation by the logical names of its axes."""

    def place(x: jax.Array, axes: tuple[str, ...]) -> jax.Array:
        sharding = NamedSharding(mesh, spec(axes, x.shape, ACTIVATIONS, mesh))
        return jax.lax.with_sharding_constraint(x, sharding)

    return place
