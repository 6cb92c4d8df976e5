"""A batch in parts that are computed one after the other."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from einops import rearrange
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array

from vljax.parallel.rules import ACTIVATIONS

BATCH_AXES = ACTIVATIONS["batch"]


def split(tree: Any, count: int, mesh: Mesh | None) -> Any:
    """Arrays [batch, ...] as [count, batch / count, ...]; scalars are in the first part only.

    Each device gives an equal share of its own rows to every part, so that nothing moves.
    """

    def one(x: Array) -> Array:
        if x.ndim == 0:
            return jnp.zeros(count, x.dtype).at[0].set(x)
        x = rearrange(x, "(device n b) ... -> n (device b) ...", device=_shards(mesh), n=count)
        return _placed(x, PartitionSpec(None, BATCH_AXES), mesh)

    return jax.tree.map(one, tree)


def join(tree: Any, mesh: Mesh | None) -> Any:
    """The inverse of `split` for what was computed from the parts; scalars are those of the first.

    A scalar of the model is the same in every part.
    """

    def one(x: Array) -> Array:
        if x.ndim == 1:
            return x[0]
        x = rearrange(x, "n (device b) ... -> (device n b) ...", device=_shards(mesh))
        return _placed(x, PartitionSpec(BATCH_AXES), mesh)

    return jax.tree.map(one, tree)


def _shards(mesh: Mesh | None) -> int:
    return 1 if mesh is None else mesh.shape["data"] * mesh.shape["fsdp"]


def _placed(x: Array, spec: PartitionSpec, mesh: Mesh | None) -> Array:
    if mesh is None:
        return x
    return jax.lax.with_sharding_constraint(x, NamedSharding(mesh, spec))
