"""Convolutions with the padding of TensorFlow."""

from __future__ import annotations

import jax
from flax import linen as nn
from jaxtyping import Array, Float

from vljax.models.compute import Compute
from vljax.models.parameters import with_axes


class Convolution(nn.Module):
    """A convolution without a bias, with zeros around the image as in TensorFlow ("SAME").

    An output side has ceil(size / stride) pixels; if the number of zeros is odd, the additional one
    is at the bottom and right. The kernel is (rows, columns, inputs, outputs), with one input if
    the convolution is depthwise.
    """

    features: int
    """Output channels."""
    size: int
    """Rows and columns of the kernel."""
    compute: Compute
    stride: int = 1
    depthwise: bool = False
    """Whether each output channel reads the input channel of the same index only."""

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
        kernel, x = kernel.astype(self.compute.dtype), x.astype(self.compute.dtype)
        if self.depthwise:
            return self.compute.kernels.depthwise_convolution(x, kernel, self.stride)
        return jax.lax.conv_general_dilated(
            x,
            kernel,
            (self.stride, self.stride),
            "SAME",
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
        )
