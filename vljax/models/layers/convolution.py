"""Convolutions and batch normalisation, for encoders that are made of them."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from einops import rearrange
from flax import linen as nn
from jaxtyping import Array, Float

from vljax.models.compute import Compute, widened
from vljax.models.layers.layers import named


class Convolution(nn.Module):
    """A convolution without a bias, zeros around the image as in TensorFlow ("SAME").

    An output has ceil(size / stride) pixels a side; an odd zero too many stands at the bottom and
    right. The kernel is (rows, columns, inputs, outputs), with one input where it is depthwise.
    """

    features: int
    size: int
    compute: Compute
    stride: int = 1
    depthwise: bool = False

    @nn.compact
    def __call__(
        self, x: Float[Array, "batch height width channels"]
    ) -> Float[Array, "batch new_height new_width features"]:
        inputs = 1 if self.depthwise else x.shape[-1]
        # He et al. 2015, by the inputs of a pixel for depthwise kernels as for others.
        init = nn.initializers.variance_scaling(2.0, "fan_in", "truncated_normal", (0, 1, 2), 3)
        axes = ("patch", "patch", "none" if self.depthwise else "conv_in", "conv_out")
        shape = (self.size, self.size, inputs, self.features)
        kernel = self.param("kernel", named(init, *axes), shape, self.compute.param_dtype)
        kernel, x = kernel.astype(self.compute.dtype), x.astype(self.compute.dtype)
        if self.depthwise and self.compute.depthwise_by_shifts:
            return depthwise_by_shifts(x, kernel, self.stride)
        return jax.lax.conv_general_dilated(
            x,
            kernel,
            (self.stride, self.stride),
            "SAME",
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
            feature_group_count=self.features if self.depthwise else 1,
        )


def depthwise_by_shifts(
    x: Float[Array, "batch height width channels"],
    kernel: Float[Array, "rows columns 1 channels"],
    stride: int,
) -> Float[Array, "batch new_height new_width channels"]:
    """A depthwise convolution as a sum of shifted images, zeros around them as in TensorFlow.

    On CPU, XLA computes one of groups more than ten times slower.
    """
    size = kernel.shape[0]
    pads = jax.lax.padtype_to_pads(x.shape[1:3], (size, size), (stride, stride), "SAME")
    rows, columns = (-(-side // stride) for side in x.shape[1:3])
    # One more phase than needed may be cut off; the sides have to be whole strides.
    ends = [-(side + sum(pad)) % stride for side, pad in zip(x.shape[1:3], pads, strict=True)]
    widths = [(low, high + end) for (low, high), end in zip(pads, ends, strict=True)]
    x = jnp.pad(x, ((0, 0), *widths, (0, 0)))
    phases = rearrange(x, "b (h p) (w q) c -> p q b h w c", p=stride, q=stride)
    total = jnp.zeros((), x.dtype)
    for i in range(size):
        for j in range(size):
            (top, p), (left, q) = divmod(i, stride), divmod(j, stride)
            shifted = phases[p, q, :, top : top + rows, left : left + columns]
            total = total + shifted * kernel[i, j, 0]
    return total


class BatchNorm(nn.Module):
    """Batch normalisation (Ioffe & Szegedy 2015) in at least float32.

    Moving statistics are state, not parameters: `mean` and `variance` in `batch_stats`.
    """

    compute: Compute
    epsilon: float
    momentum: float

    @nn.compact
    def __call__(
        self, x: Float[Array, "batch height width channels"], *, update: bool
    ) -> Float[Array, "batch height width channels"]:
        """Normalises by the batch, and moves the statistics; without `update`, by the stored ones.

        The variance of the batch is taken as it is, and Bessel's correction left out, as TensorFlow
        does.
        """
        shape, compute = x.shape[-1:], self.compute
        ones, zeros = nn.initializers.ones_init(), nn.initializers.zeros_init()
        scale = self.param("scale", named(ones, "conv_out"), shape, compute.param_dtype)
        bias = self.param("bias", named(zeros, "conv_out"), shape, compute.param_dtype)
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
