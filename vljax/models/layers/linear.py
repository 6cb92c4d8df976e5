"""Linear maps with named axes."""

from __future__ import annotations

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from vljax.models.compute import Compute
from vljax.models.parameters import with_axes
from vljax.models.quantization.quantized_kernel import QuantizedKernel, quantized_linear


class Linear(nn.Module):
    """A linear map from the last axes of its input to new ones, with named axes.

    The kernel has shape (*input axes, *output axes): `("embed", "heads", "head_dim")` for a query
    projection, `("heads", "head_dim", "embed")` with `inputs=2` for the output projection.
    """

    features: tuple[int, ...]
    """Sizes of the output axes."""
    axes: tuple[str, ...]
    """Logical names of the kernel's axes."""
    compute: Compute
    inputs: int = 1
    """Number of input axes."""
    use_bias: bool = True

    @nn.compact
    def __call__(self, x: Float[Array, "..."]) -> Float[Array, "..."]:
        ins = tuple(range(self.inputs))
        outs = tuple(range(self.inputs, len(self.axes)))
        xavier = nn.initializers.variance_scaling(1.0, "fan_avg", "uniform", ins, outs)
        shape = (*x.shape[x.ndim - self.inputs :], *self.features)
        param_dtype, dtype = self.compute.param_dtype, self.compute.dtype
        kernel = self.param("kernel", with_axes(xavier, *self.axes), shape, param_dtype)
        x, linear = x.astype(dtype), self.compute.kernels.linear
        if isinstance(kernel, QuantizedKernel):
            y = quantized_linear(x, kernel, self.inputs, linear)
        else:
            y = linear(x, jnp.asarray(kernel, dtype), self.inputs)
        if self.use_bias:
            zeros = with_axes(nn.initializers.zeros_init(), *self.axes[self.inputs :])
            y = y + self.param("bias", zeros, self.features, param_dtype).astype(dtype)
        return y
