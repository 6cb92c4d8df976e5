"""Convolutions with the padding of TensorFlow or PyTorch, and the maximum over windows."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from vljax.models.compute import Compute
from vljax.models.numerics import widened
from vljax.models.parameters import with_axes

_STANDARDIZED_EPSILON = 1e-8
"""Added to the variance of a kernel, as in the BiT of transformers."""


class Convolution(nn.Module):
    """A convolution without a bias, with zeros around the image.

    An output side has ceil(size / stride) pixels. As in TensorFlow ("SAME"), there are as few zeros
    as that takes; if their number is odd, the additional one is at the bottom and right. The kernel
    is (rows, columns, inputs, outputs), with one input if the convolution is depthwise.
    """

    features: int
    """Output channels."""
    size: int
    """Rows and columns of the kernel."""
    compute: Compute
    stride: int = 1
    depthwise: bool = False
    """Whether each output channel reads the input channel of the same index only."""
    symmetric: bool = False
    """Whether there are size // 2 zeros on every side, as in PyTorch; it matters with strides. Not
    for depthwise convolutions."""
    standardized: bool = False
    """Whether the weights of each output channel are used with a mean of 0 and a variance of 1
    (Qiao et al. 2019, eq. 2)."""

    @nn.compact
    def __call__(
        self, x: Float[Array, "batch height width channels"]
    ) -> Float[Array, "batch new_height new_width features"]:
        inputs = 1 if self.depthwise else x.shape[-1]
        # He et al. 2015. Fan-in is rows * columns * inputs, for depthwise kernels too.
        init = nn.initializers.variance_scaling(2.0, "fan_in", "truncated_normal", (0, 1, 2), 3)
        axes = ("patch", "patch", "none" if self.depthwise else "conv_in", "conv_out")
        shape = (self.size, self.size, inputs, self.features)
        kernel = self.param("kernel", with_axes(init, *axes), shape, self.compute.param_dtype)
        if self.standardized:
            wide = widened(kernel)
            wide = wide - jnp.mean(wide, (0, 1, 2))
            variance = jnp.mean(jnp.square(wide), (0, 1, 2))
            kernel = wide * jax.lax.rsqrt(variance + _STANDARDIZED_EPSILON)
        kernel, x = jnp.asarray(kernel, self.compute.dtype), x.astype(self.compute.dtype)
        if self.depthwise:
            return self.compute.kernels.depthwise_convolution(x, kernel, self.stride)
        if self.size == 1:
            # On CPU, XLA computes it in half the time of its convolution (forward and backward).
            rows = x[:, :: self.stride, :: self.stride]
            return self.compute.kernels.linear(rows, kernel[0, 0], 1)
        around = (self.size // 2, self.size // 2)
        return jax.lax.conv_general_dilated(
            x,
            kernel,
            (self.stride, self.stride),
            (around, around) if self.symmetric else "SAME",
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
        )


def max_pool(
    x: Float[Array, "batch height width channels"],
) -> Float[Array, "batch new_height new_width channels"]:
    """The maximum over windows of 3 x 3 pixels with a stride of 2, with zeros around the image.

    >>> max_pool(jnp.arange(16.0).reshape(1, 4, 4, 1))[0, :, :, 0].tolist()
    [[5.0, 7.0], [13.0, 15.0]]
    """
    # As the largest of shifted images: on CPU, XLA's gradient of `reduce_window` takes 8 times as
    # long. Where several pixels are the largest, they share the gradient.
    x = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    for axis in (1, 2):
        last = x.shape[axis] - 3
        parts = (jax.lax.slice_in_dim(x, i, i + last // 2 * 2 + 1, 2, axis) for i in range(3))
        x = functools.reduce(jnp.maximum, parts)
    return x
