"""How a model is computed, apart from what it computes.

`Compute` is set once for a model: number formats, kernels, sharding. `Call` is given to each
forward pass.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Int

from vljax.models.kernels.choose import Kernels

Constrain = Callable[[jax.Array, tuple[str, ...]], jax.Array]


@dataclass(frozen=True)
class Compute:
    """The settings that every module gets.

    >>> Compute(jnp.bfloat16).reduction_dtype
    dtype('float32')
    """

    dtype: DTypeLike = jnp.float32
    """Of matrix products and activations."""
    param_dtype: DTypeLike = jnp.float32
    """Of parameters."""
    constrain: Constrain = lambda x, axes: x
    """Constrains the sharding of an activation by the logical names of its axes; does nothing
    without a mesh."""
    kernels: Kernels = field(default_factory=Kernels)
    """How attention, norms, linear maps and depthwise convolutions are computed."""

    @property
    def reduction_dtype(self) -> Any:
        """The format of sums, and of the outputs of heads."""
        return jnp.promote_types(self.dtype, jnp.float32)


@functools.partial(
    jax.tree_util.register_dataclass,
    data_fields=("example_index", "key"),
    meta_fields=("train", "attention"),
)
@dataclass(frozen=True)
class Call:
    """How one forward pass is made; a pytree, in which `train` and `attention` are static.

    >>> call = Call(train=True, example_index=jnp.array([4, 5]))
    >>> call.repeated(2).example_index
    Array([ 8,  9, 10, 11], dtype=int32)
    """

    train: bool = False
    """Whether dropout is applied, and statistics of the batch are used."""
    example_index: Int[Array, "batch"] | None = None
    """Index of each row in the global batch, for dropout; None if all rows are there, in order."""
    key: Array | None = None
    """Random key of dropout. Modules draw theirs with `make_rng("dropout")`."""
    attention: bool = False
    """Whether attention modules sow their weights, shape (batch, heads, queries, keys), as
    `attention` in the collection `intermediates`. They are computed again by the formula."""

    def repeated(self, count: int) -> Call:
        """The call for `count` rows in place of each row: row i becomes i * count + (0, 1, ...)."""
        if self.example_index is None:
            return self
        rows = self.example_index[:, None] * count + jnp.arange(count)
        return replace(self, example_index=rows.reshape(-1))

    def for_rows(self, rows: Any) -> Call:
        """The call for streams with `rows` rows: as many as examples, or a multiple of them.

        `rows` is a whole number, or the symbolic size of an exported program's batch.

        >>> Call(example_index=jnp.array([4, 5])).for_rows(4).example_index
        Array([ 8,  9, 10, 11], dtype=int32)
        """
        return (
            self if self.example_index is None else self.repeated(rows // len(self.example_index))
        )
