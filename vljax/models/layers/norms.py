"""Layer normalisation and batch normalisation."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from vljax.models.compute import Compute
from vljax.models.parameters import with_axes
from vljax.models.precision import widened


class LayerNorm(nn.Module):
    """Layer normalisation over the embedding axis, with statistics in at least float32."""

    compute: Compute
    epsilon: float

    @nn.compact
    def __call__(self, x: Float[Array, "*rows embed"]) -> Float[Array, "*rows embed"]:
        shape, compute = x.shape[-1:], self.compute
        ones, zeros = nn.initializers.ones_init(), nn.initializers.zeros_init()
        scale = self.param("scale", with_axes(ones, "embed"), shape, compute.param_dtype)
        bias = self.param("bias", with_axes(zeros, "embed"), shape, compute.param_dtype)
        y = compute.kernels.layer_norm(x, jnp.asarray(scale), jnp.asarray(bias), self.epsilon)
        return y.astype(compute.dtype)


def layer_norm(compute: Compute, epsilon: float, name: str) -> LayerNorm:
    """A layer normalisation whose parameters are stored under `name`."""
    return LayerNorm(compute, epsilon, name=name)


class BatchNorm(nn.Module):
    """Batch normalisation (Ioffe & Szegedy 2015) in at least float32.

    Moving averages of the statistics are state, not parameters: `mean` and `variance` in the
    collection `batch_stats`.
    """

    compute: Compute
    epsilon: float
    momentum: float

    @nn.compact
    def __call__(
        self, x: Float[Array, "batch height width channels"], *, update: bool
    ) -> Float[Array, "batch height width channels"]:
        """Normalises by the statistics of the batch and updates the stored ones.

        Without `update`, normalises by the stored statistics. The variance has no Bessel's
        correction, as in TensorFlow.
        """
        shape, compute = x.shape[-1:], self.compute
        ones, zeros = nn.initializers.ones_init(), nn.initializers.zeros_init()
        scale = self.param("scale", with_axes(ones, "conv_out"), shape, compute.param_dtype)
        bias = self.param("bias", with_axes(zeros, "conv_out"), shape, compute.param_dtype)
        stored_mean = self.variable("batch_stats", "mean", jnp.zeros, shape, compute.param_dtype)
        stored_variance = self.variable(
            "batch_stats", "variance", jnp.ones, shape, compute.param_dtype
        )
        mean, variance = stored_mean.value, stored_variance.value
        if update:
            wide = widened(x)
            mean = jnp.mean(wide, (0, 1, 2))
            variance = jnp.mean(jnp.square(wide - mean), (0, 1, 2))
            for stored, new in ((stored_mean, mean), (stored_variance, variance)):
                moved = self.momentum * stored.value + (1 - self.momentum) * new
                stored.value = jax.lax.stop_gradient(moved).astype(stored.value.dtype)
        factor = scale * jax.lax.rsqrt(variance + self.epsilon)
        y = widened(x) * factor + (bias - mean * factor)
        return y.astype(compute.dtype)
