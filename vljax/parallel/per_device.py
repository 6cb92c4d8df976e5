"""Functions that each device runs on its own shard: the one wrapper of `jax.shard_map`, and scans
around a ring of devices.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
from jax import lax
from jax.sharding import Mesh, PartitionSpec

from vljax.parallel.rules import ACTIVATIONS, spec

Tree = Any
Specs = Any


def on_shards(
    function: Callable[..., Tree],
    mesh: Mesh,
    in_specs: Specs,
    out_specs: Specs,
    *,
    check_vma: bool = True,
) -> Callable[..., Tree]:
    """`function`, run by each device of the mesh on its shard of the arguments.

    Args:
      function: sees the shapes of one shard, and may use collectives over the axes of the mesh.
      mesh: the devices.
      in_specs: a PartitionSpec for each argument, or one for all.
      out_specs: the same for the results.
      check_vma: whether JAX checks along which mesh axes results vary.
    """
    mapped: Callable[..., Tree] = jax.shard_map(
        function, mesh=mesh, in_specs=in_specs, out_specs=out_specs, check_vma=check_vma
    )
    return mapped


def on_batch_shards(function: Callable[..., Tree], mesh: Mesh | None) -> Callable[..., Tree]:
    """`function`, run by each device on its shard of the batch.

    The first axis of all arguments and results is the batch. Devices along `tensor` hold the same
    shard and compute the same. Without a mesh, or on one device, it is the function itself.

    >>> import jax.numpy as jnp
    >>> from vljax.parallel.mesh import MeshConfig, make_mesh
    >>> mesh = make_mesh(MeshConfig())
    >>> shard_sizes = on_batch_shards(lambda x: jnp.full_like(x, len(x)), mesh)
    >>> int(shard_sizes(jnp.zeros(mesh.size * 3))[0])
    3
    """
    if mesh is None or mesh.size == 1:
        return function
    batch = PartitionSpec(ACTIVATIONS["batch"])
    return on_shards(function, mesh, batch, batch)


def on_each_device(mesh: Mesh) -> Callable[..., jax.Array]:
    """A function that runs kernels that the compiler cannot split, such as Pallas kernels.

    The result is called as `(function, arguments, axes, out)`, with the logical axes of each
    argument and of the result; the table of activations says how they are sharded. Arguments that
    are None are passed on.
    """

    def run(
        function: Callable[..., jax.Array],
        arguments: Sequence[jax.Array | None],
        axes: Sequence[tuple[str, ...]],
        out: tuple[str, ...],
    ) -> jax.Array:
        # shard_map takes arrays only: the arguments that are None go around it.
        present = [i for i, argument in enumerate(arguments) if argument is not None]

        def local(*shards: jax.Array) -> jax.Array:
            complete: list[jax.Array | None] = [None] * len(arguments)
            for i, shard in zip(present, shards, strict=True):
                complete[i] = shard
            return function(*complete)

        arrays = [argument for argument in arguments if argument is not None]
        in_specs = tuple(
            spec(axes[i], array.shape, ACTIVATIONS, mesh)
            for i, array in zip(present, arrays, strict=True)
        )
        out_spec = spec(out, jax.eval_shape(function, *arguments).shape, ACTIVATIONS, mesh)
        # Pallas kernels do not declare along which mesh axes their results vary.
        result: jax.Array = on_shards(local, mesh, in_specs, out_spec, check_vma=False)(*arrays)
        return result

    return run


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
