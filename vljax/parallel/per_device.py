"""Functions that run on each device's own part of their arguments."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
from jax.sharding import Mesh

from vljax.parallel.rules import ACTIVATIONS, spec


def on_each_device(mesh: Mesh) -> Callable[..., jax.Array]:
    """A way to run kernels that the compiler cannot split: each device computes on its part.

    The result is called as `(function, arguments, axes, out)`, with the logical axes of each
    argument and of the result. Arguments that are None are handed on as they are.
    """

    def run(
        function: Callable[..., jax.Array],
        arguments: Sequence[jax.Array | None],
        axes: Sequence[tuple[str, ...]],
        out: tuple[str, ...],
    ) -> jax.Array:
        def place(names: tuple[str, ...], shape: tuple[int, ...]) -> Any:
            return spec(names, shape, ACTIVATIONS, mesh)

        there = [i for i, argument in enumerate(arguments) if argument is not None]

        def local(*parts: jax.Array) -> jax.Array:
            given: list[jax.Array | None] = [None] * len(arguments)
            for i, part in zip(there, parts, strict=True):
                given[i] = part
            return function(*given)

        present = [argument for argument in arguments if argument is not None]
        specs = tuple(place(axes[i], x.shape) for i, x in zip(there, present, strict=True))
        result = jax.eval_shape(function, *arguments)
        mapped = jax.shard_map(
            local,
            mesh=mesh,
            in_specs=specs,
            out_specs=place(out, result.shape),
            check_vma=False,  # Pallas kernels don't say how their results vary
        )
        sharded: jax.Array = mapped(*present)
        return sharded

    return run
