"""Sharding rules: logical axes to mesh axes, in a table for parameters and one for activations.

There are two tables because `fsdp` splits `embed` in parameters, and the batch in activations.
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


class ParameterSpec(NamedTuple):
    """The PartitionSpec of an array, and the mesh axes that could not split it."""

    spec: PartitionSpec
    """For each axis of the array, the mesh axes that split it, without mesh axes of size 1."""
    unsplit: dict[str, str]
    """Mesh axis that cannot split the array -> the reason."""


def parameter_spec(
    axes: tuple[str, ...], shape: tuple[int, ...], mesh: Mesh, fsdp_min_size: int
) -> ParameterSpec:
    """The PartitionSpec of a parameter: by the table, but `fsdp` may take another axis.

    `fsdp` splits every array of at least `fsdp_min_size` elements (ZeRO-3, Rajbhandari et al.
    2020). It splits `embed`; if the array has no such axis, or `fsdp` does not divide it, then the
    largest axis that it divides. The size of a stack of layers is that of one layer.

    Raises:
      ValueError: as `spec`.

    >>> from vljax.parallel.mesh import MeshConfig, make_mesh
    >>> mesh = make_mesh(MeshConfig(data=1, fsdp=-1))
    >>> parameter_spec(("embed", "mlp"), (768, 3072), mesh, fsdp_min_size=2**16).unsplit
    {}
    """
    parts = mesh.shape["fsdp"]
    size = math.prod(n for name, n in zip(axes, shape, strict=True) if name != "layers")
    if size < max(fsdp_min_size, parts):
        table = {name: None if to == "fsdp" else to for name, to in PARAMETERS.items()}
        return _by_table(axes, shape, table, mesh)
    by_table = _by_table(axes, shape, PARAMETERS, mesh)
    if parts == 1 or "fsdp" in by_table.spec:
        return by_table
    # Never `layers`: a scan over a stack that is split along its layers gathers the whole stack.
    free = [i for i, to in enumerate(by_table.spec) if to is None and axes[i] != "layers"]
    divisible = [i for i in free if shape[i] % parts == 0]
    if not divisible:
        reason = _reason("fsdp", parts, [(axes[i], shape[i]) for i in free])
        return ParameterSpec(by_table.spec, {**by_table.unsplit, "fsdp": reason})
    chosen = max(divisible, key=lambda i: shape[i])
    entries = ["fsdp" if i == chosen else to for i, to in enumerate(by_table.spec)]
    unsplit = {name: why for name, why in by_table.unsplit.items() if name != "fsdp"}
    return ParameterSpec(PartitionSpec(*entries), unsplit)


def spec(axes: tuple[str, ...], shape: tuple[int, ...], table: Table, mesh: Mesh) -> PartitionSpec:
    """The PartitionSpec of an array by a table; an axis that its mesh axes do not divide is whole.

    Raises:
      ValueError: for a logical axis that the table lacks, a wrong number of axes, or two axes of
        one array on the same mesh axis. JAX itself would replicate the array without a word.
    """
    return _by_table(axes, shape, table, mesh).spec


def _by_table(
    axes: tuple[str, ...], shape: tuple[int, ...], table: Table, mesh: Mesh
) -> ParameterSpec:
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
    return ParameterSpec(PartitionSpec(*entries), unsplit)


def _reason(mesh_axis: str, parts: int, axes: Sequence[tuple[str, int]]) -> str:
    """Why a mesh axis cannot split an array, and its largest divisor that could."""
    if not axes:
        return f"{mesh_axis} {parts} finds no free axis"
    sizes = " or ".join(f"{name} {size}" for name, size in axes)
    near = max(math.gcd(size, parts) for _, size in axes)
    remedy = f"; {near} would do" if near > 1 else ""
    return f"{mesh_axis} {parts} does not divide {sizes}{remedy}"


def parameter_shardings(axes: Any, shapes: Any, mesh: Mesh, fsdp_min_size: int = 0) -> Any:
    """The sharding of every parameter; `axes` mirrors `shapes` with tuples of logical axes."""

    def sharding(shape: jax.ShapeDtypeStruct, names: tuple[str, ...]) -> NamedSharding:
        return NamedSharding(mesh, parameter_spec(names, shape.shape, mesh, fsdp_min_size).spec)

    return jax.tree.map(sharding, shapes, axes)


def update_shardings(axes: Any, shapes: Any, mesh: Mesh, fsdp_min_size: int = 0) -> Any:
    """The sharding of every parameter's update: its gradient and its moments.

    The replicas of the model share the update (Xu et al. 2020, arXiv 2004.13336). The mesh axes
    that split the parameter split its update, and so does `data` if the array has at least
    `fsdp_min_size` elements, along the largest axis that it divides. Afterwards the parameters are
    all-gathered.
    """
    parts = mesh.shape["data"]

    def sharding(shape: jax.ShapeDtypeStruct, names: tuple[str, ...]) -> NamedSharding:
        spec = parameter_spec(names, shape.shape, mesh, fsdp_min_size).spec
        one_layer = [i for i, name in enumerate(names) if name != "layers"]
        free = [i for i in one_layer if spec[i] is None and shape.shape[i] % parts == 0]
        size = math.prod(shape.shape[i] for i in one_layer)
        if parts > 1 and free and size >= fsdp_min_size:
            # `embed` only if nothing else is free: it fills the lanes of a TPU, and if it is split,
            # XLA chooses layouts that do not fill them.
            chosen = max(free, key=lambda i: (names[i] != "embed", shape.shape[i]))
            spec = PartitionSpec(*("data" if i == chosen else to for i, to in enumerate(spec)))
        return NamedSharding(mesh, spec)

    return jax.tree.map(sharding, shapes, axes)


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """The sharding of a batch: split along its first axis by `data` and `fsdp`."""
    return NamedSharding(mesh, PartitionSpec(ACTIVATIONS["batch"]))


def replicated(mesh: Mesh) -> NamedSharding:
    """The sharding of an array that every device holds in full."""
    return NamedSharding(mesh, PartitionSpec())


def constrain(mesh: Mesh) -> Callable[[jax.Array, tuple[str, ...]], jax.Array]:
    """A function `(activation, logical axes) -> activation` that constrains its sharding."""

    def constrained(x: jax.Array, axes: tuple[str, ...]) -> jax.Array:
        sharding = NamedSharding(mesh, spec(axes, x.shape, ACTIVATIONS, mesh))
        return jax.lax.with_sharding_constraint(x, sharding)

    return constrained
