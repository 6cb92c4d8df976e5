"""Number formats, and how vectors are compared."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, TypeVar

import jax
import jax.numpy as jnp
import numpy as np


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


Similarity = Literal["cosine", "dot", "euclidean"]
"""Cosine of the angle, dot product, or (negative, squared) Euclidean distance."""

AnyArray = TypeVar("AnyArray", jax.Array, np.ndarray)


def unit(vectors: AnyArray) -> AnyArray:
    """Scales vectors along the last axis to length 1; zero vectors stay zero.

    The gradient at a zero vector is zero. The result has the kind and dtype of the input.

    >>> unit(np.array([[3.0, 4.0], [0.0, 0.0]])).tolist()
    [[0.6000000000000001, 0.8], [0.0, 0.0]]
    """
    xp = vectors.__array_namespace__()
    squared = xp.sum(xp.square(vectors), axis=-1, keepdims=True)
    # The inner `where` keeps the gradient of a zero vector from being NaN.
    return vectors * xp.where(squared > 0, 1 / xp.sqrt(xp.where(squared > 0, squared, 1)), 0)
