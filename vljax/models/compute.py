"""How a model is computed, apart from what it computes: precision, kernels, activation sharding."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

Constrain = Callable[[jax.Array, tuple[str, ...]], jax.Array]


@dataclass(frozen=True)
class Precision:
    """Number formats of a run; reductions in norms, softmax and losses are always float32."""

    compute: Literal["auto", "float32", "bfloat16"] = "auto"
    """Matrix products and activations; auto: bfloat16 on TPU and GPU, float32 on CPU."""
    params: Literal["float32"] = "float32"
    """Parameters and optimizer state."""

    def resolve(self, platform: str) -> Precision:
        """The policy for the platform that the mesh targets ("cpu", "gpu", "tpu"), without auto."""
        if self.compute != "auto":
            return self
        return Precision("float32" if platform == "cpu" else "bfloat16", self.params)


@dataclass(frozen=True)
class Compute:
    """What every module is told about its computation."""

    dtype: DTypeLike = jnp.float32
    param_dtype: DTypeLike = jnp.float32
    constrain: Constrain = lambda x, axes: x
    """Places an activation by the logical names of its axes; the identity off a mesh."""

    @staticmethod
    def of(precision: Precision, platform: str, constrain: Constrain) -> Compute:
        """The computation of a resolved precision on a platform."""
        resolved = precision.resolve(platform)
        return Compute(jnp.dtype(resolved.compute), jnp.dtype(resolved.params), constrain)
