"""The sharding of each parameter and its bytes per device, as rows of a table."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import jax
from jax.sharding import Mesh

from vljax.parallel.rules import parameter_spec


@dataclass(frozen=True)
class ParameterPlacement:
    """A parameter on a mesh."""

    path: str
    shape: tuple[int, ...]
    axes: tuple[str, ...]
    """Logical axes."""
    split: dict[str, str]
    """Mesh axis of more than one device -> the logical axis that it splits."""
    unsplit: dict[str, str]
    """Mesh axis that cannot split the array -> the reason."""
    bytes: int
    """Bytes of the whole array."""
    bytes_per_device: int

    @property
    def sharding(self) -> str:
        """Such as `fsdp(embed), tensor(mlp)`; `whole` if no axis is split."""
        return ", ".join(f"{by}({axis})" for by, axis in self.split.items()) or "whole"


def parameter_placements(
    params: Any, axes: Any, mesh: Mesh, fsdp_min_size: int
) -> list[ParameterPlacement]:
    """The placement of every parameter.

    Args:
      params: shapes, types and shardings (jax.ShapeDtypeStruct), as the program has them.
      axes: mirrors `params` with tuples of logical axes.
      mesh: the mesh of the shardings.
      fsdp_min_size: the limit that the shardings were made with.
    """

    def row(path: Any, leaf: jax.ShapeDtypeStruct, names: tuple[str, ...]) -> ParameterPlacement:
        where = {
            by: names[i]
            for i, entry in enumerate(leaf.sharding.spec)
            for by in ([entry] if isinstance(entry, str) else entry or ())
        }
        split = {by: where[by] for by in mesh.axis_names if by in where and mesh.shape[by] > 1}
        return ParameterPlacement(
            jax.tree_util.keystr(path, simple=True, separator="/"),
            leaf.shape,
            names,
            split,
            parameter_spec(names, leaf.shape, mesh, fsdp_min_size).unsplit,
            math.prod(leaf.shape) * leaf.dtype.itemsize,
            bytes_per_device(leaf),
        )

    rows = jax.tree_util.tree_map_with_path(row, params, axes)
    return jax.tree.leaves(rows)


def bytes_per_device(tree: Any) -> int:
    """The bytes that one device holds of arrays with shardings (jax.ShapeDtypeStruct)."""
    return sum(
        math.prod(leaf.sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize
        for leaf in jax.tree.leaves(tree)
    )
