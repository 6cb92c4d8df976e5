"""Dropout that does not depend on how a batch is divided."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float, Int

ExampleIndex = Int[Array, "batch"] | None
"""Index of each example in the global batch; None if all examples are there, in order."""


class Dropout(nn.Module):
    """Dropout of single values, or of whole examples (drop path, Huang et al. 2016).

    The mask of an example is drawn from a key and the example's index in the global batch, so that
    it stays the same if the batch is computed in parts (`Run.accumulate`).
    """

    whole_examples: bool = False

    @nn.compact
    def __call__(
        self, x: Float[Array, "batch ..."], rate: float | Array, example_index: ExampleIndex = None
    ) -> Float[Array, "batch ..."]:
        key = self.make_rng("dropout")
        shape = (1,) * (x.ndim - 1) if self.whole_examples else x.shape[1:]
        index = jnp.arange(x.shape[0]) if example_index is None else example_index
        keep = jax.vmap(lambda i: jax.random.bernoulli(jax.random.fold_in(key, i), 1 - rate, shape))
        return jnp.where(keep(index), x / jnp.asarray(1 - rate, x.dtype), jnp.zeros((), x.dtype))
