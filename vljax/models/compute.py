"""How a model is computed, apart from what it computes: number formats, kernels, sharding."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
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


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Call:
    """How one forward pass is made, apart from its inputs.

    >>> Call(train=True).train
    True
    """

    train: bool = field(default=False, metadata={"static": True})
    """Whether dropout is applied and batch statistics are updated."""
    example_index: Int[Array, "batch"] | None = None
    """Index of each row in the global batch; None if all rows are there, in order."""
    key: Array | None = None
    """Random key of dropout."""
