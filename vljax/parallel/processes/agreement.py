"""One small number a process, and the largest of them, without waiting."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Int32


class SharedMaximum:
    """A collective over all devices that the steps started before it do not hold up.

    It costs the start of a program of a few bytes; see `training.interrupt` for its use.
    """

    def __init__(self) -> None:
        mesh = Mesh(np.array(jax.devices()), ("all",), axis_types=(AxisType.Auto,))
        self._split = NamedSharding(mesh, PartitionSpec("all"))
        self._largest = jax.jit(jnp.max, out_shardings=NamedSharding(mesh, PartitionSpec()))
        self._held: dict[int, Array] = {}

    def __call__(self, value: int) -> Int32[Array, ""]:
        """The largest value of all processes, which must all call it, in the same order."""
        if value not in self._held:  # nearly always the same number
            self._held[value] = self._everywhere(value)
        largest: Array = self._largest(self._held[value])
        return largest

    def _everywhere(self, value: int) -> Array:
        count = len(self._split.device_set)
        return jax.make_array_from_callback(
            (count,), self._split, lambda _: np.full(1, value, np.int32)
        )


def shared_maximum() -> SharedMaximum | None:
    """None where a process is alone, which needs nobody's number."""
    return SharedMaximum() if jax.process_count() > 1 else None
