"""Where every array of a tree is, and how much of it each device holds."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import jax
from jax.sharding import Mesh

from vljax.parallel.rules import place_parameter


@dataclass(frozen=True)
class Placed:
    """A parameter on a mesh."""

    path: str
    shape: tuple[int, ...]
    axes: tuple[str, ...]
    """Logical names."""
    split: dict[str, str]
    """Mesh axes of more than one device, with the logical axis that each splits."""
    unsplit: dict[str, str]
    """Mesh axes that were to split the array and could not, with the reason."""
    bytes: int
    """Of the whole array."""
    bytes_per_device: int

    @property
    def sharding(self) -> str:
        """Such as `fsdp(embed), tensor(mlp)`."""
        return ", ".join(f"{by}({axis})" for by, axis in self.split.items()) or "whole"


def placement(params: Any, axes: Any, mesh: Mesh, fsdp_min_size: int) -> list[Placed]:
    """Where every parameter is.

    Args:
      params: shapes, types and shardings (jax.ShapeDtypeStruct), as the program has them.
      axes: mirrors them with tuples of logical names.
      mesh: what the shardings are made of.
      fsdp_min_size: what the shardings were made with.
    """

    def row(path: Any, leaf: jax.ShapeDtypeStruct, names: tuple[str, ...]) -> Placed:
        where = {
            by: names[i]
            for i, entry in enumerate(leaf.sharding.spec)
            for by in ([entry] if isinstance(entry, str) else entry or ())
        }
        split = {by: where[by] for by in mesh.axis_names if by in where and mesh.shape[by] > 1}
        return Placed(
            jax.tree_util.keystr(path, simple=True, separator="/"),
            leaf.shape,
            names,
            split,
            place_parameter(names, leaf.shape, mesh, fsdp_min_size).unsplit,
            math.prod(leaf.shape) * leaf.dtype.itemsize,
            bytes_per_device(leaf),
        )

    rows = jax.tree_util.tree_map_with_path(row, params, axes)
    return jax.tree.leaves(rows)


def bytes_per_device(tree: Any) -> int:
    """What one device holds of arrays that are given with their shardings."""
    return sum(
        math.prod(leaf.sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize
        for leaf in jax.tree.leaves(tree)
    )
