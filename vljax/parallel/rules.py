"""Logical axes to mesh axes, by two tables: one for parameters, one for activations.

One table for both would misplace activations: `embed` is split for parameters (FSDP) and whole for
activations, where the batch takes that mesh axis.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

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


class Place(NamedTuple):
    """Where an array goes."""

    spec: PartitionSpec
    """For each axis of the array, the mesh axes that split it; mesh axes of size 1 are left out."""
    unsplit: dict[str, str]
    """For each mesh axis that was to split the array and could not: why."""


def place_parameter(
    axes: tuple[str, ...], shape: tuple[int, ...], mesh: Mesh, fsdp_min_size: int
) -> Place:
    """Where a parameter goes: by the table, except that `fsdp` looks for an axis that it divides.

    `fsdp` splits every array of at least `fsdp_min_size` elements (ZeRO-3, Rajbhandari et al.
    2020) along `embed`; where that is missing or cannot be divided, along the largest axis that
    can. A stack of layers counts as one layer, and is never split along its layers: the loop over
    them would gather the whole stack.

    Raises:
      ValueError: as `spec`.
    """
    parts = mesh.shape["fsdp"]
    size = math.prod(n for name, n in zip(axes, shape, strict=True) if name != "layers")
    if size < max(fsdp_min_size, parts):
        table = {name: None if to == "fsdp" else to for name, to in PARAMETERS.items()}
        return _place(axes, shape, table, mesh)
    place = _place(axes, shape, PARAMETERS, mesh)
    if parts == 1 or "fsdp" in place.spec:
        return place
    free = [i for i, to in enumerate(place.spec) if to is None and axes[i] != "layers"]
    divisible = [i for i in free if shape[i] % parts == 0]
    if not divisible:
        reason = _reason("fsdp", parts, [(axes[i], shape[i]) for i in free])
        return Place(place.spec, {**place.unsplit, "fsdp": reason})
    chosen = max(divisible, key=lambda i: shape[i])
    entries = ["fsdp" if i == chosen else to for i, to in enumerate(place.spec)]
    unsplit = {name: why for name, why in place.unsplit.items() if name != "fsdp"}
    return Place(PartitionSpec(*entries), unsplit)


def spec(axes: tuple[str, ...], shape: tuple[int, ...], table: Table, mesh: Mesh) -> PartitionSpec:
    """Where an array's axes go by a table. An axis that its mesh axes do not divide stays whole.

    Raises:
      ValueError: for a logical name that the table lacks, a wrong number of names, or two axes of
        one array on the same mesh axis; JAX itself would replicate silently.
    """
    return _place(axes, shape, table, mesh).spec


def _place(axes: tuple[str, ...], shape: tuple[int, ...], table: Table, mesh: Mesh) -> Place:
    if len(axes) != len(shape):
        raise ValueError(f"{len(axes)} axis names {axes} for an array of shape {shape}")
    entries: list[MeshAxes] = []
    unsplit: dict[str, str] = {}
    taken: set[str] = set()
    for name, size in zip(axes, shape, strict=True):
        if name not in table:
            raise ValueError(f"unknown logical axis {name!r} in {axes}; known: {sorted(table)}")
        target = table[name]
        members = (target,) if isinstance(target, str) else target or ()
        if taken & set(members):
            raise ValueError(f"two axes of {axes} go to the mesh axis {target!r}")
        taken |= set(members)
        parts = math.prod(mesh.shape[member] for member in members)
        if size % parts:
            split_by = " x ".join(members)
            unsplit[split_by] = _reason(split_by, parts, [(name, size)])
        entries.append(target if parts > 1 and size % parts == 0 else None)
    return Place(PartitionSpec(*entries), unsplit)


def _reason(mesh_axis: str, parts: int, axes: Sequence[tuple[str, int]]) -> str:
    """Why a mesh axis cannot split an array, with the largest divisor of it that could."""
    if not axes:
        return f"{mesh_axis} {parts} finds every axis taken"
    sizes = " or ".join(f"{name} {size}" for name, size in axes)
    near = max(math.gcd(size, parts) for _, size in axes)
    remedy = f"; {near} would do" if near > 1 else ""
    return f"{mesh_axis} {parts} does not divide {sizes}{remedy}"


def parameter_shardings(axes: Any, shapes: Any, mesh: Mesh, fsdp_min_size: int = 0) -> Any:
    """A sharding for every parameter; `axes` mirrors `shapes` with tuples of logical names."""

    def place(shape: jax.ShapeDtypeStruct, names: tuple[str, ...]) -> NamedSharding:
        return NamedSharding(mesh, place_parameter(names, shape.shape, mesh, fsdp_min_size).spec)

    return jax.tree.map(place, shapes, axes)


def update_shardings(axes: Any, shapes: Any, mesh: Mesh, fsdp_min_size: int = 0) -> Any:
    """A sharding for the update of every parameter: its gradient and its moments.

    Copies of the model share the work (Xu et al. 2020, arXiv 2004.13336): beside what splits the
    parameter, `data` splits the update of every array of at least `fsdp_min_size` elements, along
    the largest axis that it divides; afterwards the parameters are put together again. `embed`
    comes last: it fills the lanes of a TPU, and parts of it make XLA choose layouts that do not.
    """
    parts = mesh.shape["data"]

    def place(shape: jax.ShapeDtypeStruct, names: tuple[str, ...]) -> NamedSharding:
        spec = place_parameter(names, shape.shape, mesh, fsdp_min_size).spec
        one_layer = [i for i, name in enumerate(names) if name != "layers"]
        free = [i for i in one_layer if spec[i] is None and shape.shape[i] % parts == 0]
        size = math.prod(shape.shape[i] for i in one_layer)
        if parts > 1 and free and size >= fsdp_min_size:
            chosen = max(free, key=lambda i: (names[i] != "embed", shape.shape[i]))
            spec = PartitionSpec(*("data" if i == chosen else to for i, to in enumerate(spec)))
        return NamedSharding(mesh, spec)

    return jax.tree.map(place, shapes, axes)


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
