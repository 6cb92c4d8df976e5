"""Ring scan: each device computes on its own shard of a batch and on those of all other devices."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
from jax import lax
from jax.sharding import Mesh

from vljax.parallel.rules import ACTIVATIONS

Tree = Any
AXES = ACTIVATIONS["batch"]


def ring_size(mesh: Mesh | None) -> int:
    """The number of shards of a batch; 1 without a mesh."""
    return 1 if mesh is None else mesh.shape["data"] * mesh.shape["fsdp"]


def ring_scan(
    visit: Callable[..., tuple[Tree, Tree]],
    carry: Tree,
    shard: Tree,
    merge: Callable[[Tree, Tree], Tree],
    mesh: Mesh | None,
) -> tuple[Tree, Tree]:
    """Scans over the shards of all devices, the local one first; call it in `on_batch_shards`.

    Shards move around the ring, so a device never holds more than two of them, and what `visit`
    adds to a remote shard's sum moves along. The remote visits are one `lax.scan`, so the program
    does not grow with the number of devices.

    Args:
      visit: `(carry, shard, *, is_local) -> (carry, addition)`, what a device does with a shard.
        `addition` goes into the sum of that shard; `is_local` is a Python bool.
      carry: what a device begins with; it stays there and is updated by each visit.
      shard: the local shard.
      merge: `(sum, addition) -> sum` of one shard.
      mesh: the devices.

    Returns:
      The carry after all visits, and the sum of the local shard over the visits of all devices.
    """
    size = ring_size(mesh)
    if size == 1:
        return visit(carry, shard, is_local=True)
    onward = [(i, (i + 1) % size) for i in range(size)]

    def send(tree: Tree) -> Tree:
        return jax.tree.map(lambda x: lax.ppermute(x, AXES, onward), tree)

    def step(state: tuple[Tree, Tree, Tree], _: None) -> tuple[tuple[Tree, Tree, Tree], None]:
        # Neither transfer depends on the visit: the next shard, and the sum of this one (a step
        # behind it), arrive while the device computes.
        carry, addition, shard = state
        next_shard, total = send(shard), send(addition)
        carry, addition = visit(carry, shard, is_local=False)
        return (carry, merge(total, addition), next_shard), None

    next_shard = send(shard)
    carry, addition = visit(carry, shard, is_local=True)
    (carry, addition, _), _ = lax.scan(step, (carry, addition, next_shard), length=size - 1)
    return carry, send(addition)
