"""Number formats of a run."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import jax
import jax.numpy as jnp


@dataclass(frozen=True)
class Precision:
    """Number formats of a run; sums in norms, softmax and losses are in at least float32.

    >>> Precision().resolve("tpu").compute
    'bfloat16'
    """

    compute: Literal["auto", "float32", "bfloat16", "float64"] = "auto"
    """Of matrix products and activations; auto: bfloat16 on TPU and GPU, float32 on CPU."""
    params: Literal["float32", "float64"] = "float32"
    """Of parameters and optimizer state; float64 (JAX_ENABLE_X64=1) is for comparisons."""

    def problems(self) -> Any:
        if "float64" in (self.compute, self.params) and not jax.config.read("jax_enable_x64"):
            field = "compute" if self.compute == "float64" else "params"
            yield field, "float64 is off in JAX; set the environment variable JAX_ENABLE_X64=1"

    def resolve(self, platform: str) -> Precision:
        """The formats for a platform ("cpu", "gpu" or "tpu"), with `auto` replaced."""
        if self.compute != "auto":
            return self
        return Precision("float32" if platform == "cpu" else "bfloat16", self.params)


def widened(x: jax.Array) -> jax.Array:
    """The array in at least float32.

    >>> widened(jnp.ones(2, jnp.bfloat16)).dtype
    dtype('float32')
    """
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))
