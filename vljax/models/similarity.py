"""How two embeddings are compared, and vectors of unit length, for JAX and NumPy arrays."""

from __future__ import annotations

from typing import Literal, TypeVar

import jax
import numpy as np

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
