"""A ring of devices, on which the part of a batch that each one holds visits all the others."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
from jax import lax
from jax.sharding import Mesh, PartitionSpec

from vljax.parallel.rules import ACTIVATIONS

Tree = Any
AXES = ACTIVATIONS["batch"]


def ring_size(mesh: Mesh | None) -> int:
    """How many parts a batch is split into; 1 without a mesh."""
    return 1 if mesh is None else mesh.shape["data"] * mesh.shape["fsdp"]


def on_each_part(function: Callable[..., Tree], mesh: Mesh | None) -> Callable[..., Tree]:
    """The function applied by each device to its part of the arguments, which begin with `batch`.

    Its results begin with `batch` as well. Along `tensor` all devices do the same. On one device it
    is the function itself.
    """
    if mesh is None or mesh.size == 1:
        return function
    spec = PartitionSpec(AXES)
    return jax.shard_map(function, mesh=mesh, in_specs=spec, out_specs=spec)


def tour(
    visit: Callable[..., tuple[Tree, Tree]],
    mine: Tree,
    block: Tree,
    merge: Callable[[Tree, Tree], Tree],
    mesh: Mesh | None,
) -> tuple[Tree, Tree]:
    """Shows the block of each device to all of them, its own first; within `on_each_part`.

    The visits to other devices are one loop, so that the program does not grow with their number.

    Args:
      visit: `(mine, block, *, own) -> (mine, theirs)`, what a device does with a block. `theirs` is
        what it adds to the luggage of the block; `own` says that the block is its own.
      mine: what a device begins with; it stays there and grows from visit to visit.
      block: what it holds and sends round.
      merge: how the luggage of a block and what one visit adds become one.
      mesh: the devices.

    Returns:
      What all visits made of `mine`, and what the block of this device collected everywhere.
    """
    size = ring_size(mesh)
    if size == 1:
        return visit(mine, block, own=True)
    onward = [(i, (i + 1) % size) for i in range(size)]

    def pass_on(tree: Tree) -> Tree:
        return jax.tree.map(lambda x: lax.ppermute(x, AXES, onward), tree)

    def step(carry: tuple[Tree, Tree, Tree], _: None) -> tuple[tuple[Tree, Tree, Tree], None]:
        # Neither transfer waits for the visit: the next block and the luggage of this one, which
        # travels a step behind it, arrive while the device computes.
        mine, theirs, block = carry
        following, luggage = pass_on(block), pass_on(theirs)
        mine, added = visit(mine, block, own=False)
        return (mine, merge(luggage, added), following), None

    following = pass_on(block)
    mine, theirs = visit(mine, block, own=True)
    (mine, theirs, _), _ = lax.scan(step, (mine, theirs, following), length=size - 1)
    return mine, pass_on(theirs)
