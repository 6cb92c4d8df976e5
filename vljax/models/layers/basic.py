"""Linear maps, norms, dropout and the MLP: the parts of a block other than attention."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Literal

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.ad_checkpoint import checkpoint_name
from jaxtyping import Array, Float

from vljax.models.compute import Call, Compute
from vljax.models.low_rank import LowRankKernel, low_rank_linear
from vljax.models.numerics import widened
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
        elif isinstance(kernel, LowRankKernel):
            y = low_rank_linear(x, kernel, self.inputs, linear)
        else:
            y = linear(x, jnp.asarray(kernel, dtype), self.inputs)
        if self.use_bias:
            zeros = with_axes(nn.initializers.zeros_init(), *self.axes[self.inputs :])
            y = y + self.param("bias", zeros, self.features, param_dtype).astype(dtype)
        return y


class LayerNorm(nn.Module):
    """Layer normalisation over the last axis, with statistics in at least float32."""

    compute: Compute
    epsilon: float
    axis: str = "embed"
    """Logical name of the last axis."""

    @nn.compact
    def __call__(self, x: Float[Array, "*rows embed"]) -> Float[Array, "*rows embed"]:
        shape, compute = x.shape[-1:], self.compute
        ones, zeros = nn.initializers.ones_init(), nn.initializers.zeros_init()
        scale = self.param("scale", with_axes(ones, self.axis), shape, compute.param_dtype)
        bias = self.param("bias", with_axes(zeros, self.axis), shape, compute.param_dtype)
        y = compute.kernels.layer_norm(x, jnp.asarray(scale), jnp.asarray(bias), self.epsilon)
        return y.astype(compute.dtype)


def layer_norm(compute: Compute, epsilon: float, name: str) -> LayerNorm:
    """A layer normalisation whose parameters are stored under `name`."""
    return LayerNorm(compute, epsilon, name=name)


class RMSNorm(nn.Module):
    """Division by the root mean square over the last axis (Zhang & Sennrich 2019, eq. 4).

    Without a mean and a bias. Sums are in at least float32.

    >>> norm = RMSNorm(Compute(), 0.0)
    >>> norm.apply(norm.init(jax.random.key(0), jnp.ones(2)), jnp.array([1.0, 7.0])).tolist()
    [0.20000000298023224, 1.399999976158142]
    """

    compute: Compute
    epsilon: float
    axis: str = "embed"
    """Logical name of the last axis."""

    @nn.compact
    def __call__(self, x: Float[Array, "*rows embed"]) -> Float[Array, "*rows embed"]:
        ones = with_axes(nn.initializers.ones_init(), self.axis)
        scale = self.param("scale", ones, x.shape[-1:], self.compute.param_dtype)
        wide = widened(x)
        mean = jnp.mean(jnp.square(wide), axis=-1, keepdims=True)
        y = wide * jax.lax.rsqrt(mean + self.epsilon) * scale
        return y.astype(self.compute.dtype)


NORMS: dict[str, type[LayerNorm] | type[RMSNorm]] = {"layer": LayerNorm, "rms": RMSNorm}


def epsilon_problems(epsilon: float) -> Iterator[tuple[str, str]]:
    """For `problems` of nodes with norms; without an epsilon, a norm of equal values is NaN."""
    if not epsilon > 0:
        yield "norm_epsilon", f"must be above 0, not {epsilon}"


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


class GroupNorm(nn.Module):
    """Group normalisation (Wu & He 2018, eq. 1, 2, 7) in at least float32.

    The statistics are of each image alone: over all pixels and the channels of a group.
    """

    compute: Compute
    epsilon: float
    groups: int
    """Number of groups of neighbouring channels; it divides the channels."""

    @nn.compact
    def __call__(
        self, x: Float[Array, "batch height width channels"]
    ) -> Float[Array, "batch height width channels"]:
        shape, compute = x.shape[-1:], self.compute
        ones, zeros = nn.initializers.ones_init(), nn.initializers.zeros_init()
        scale = self.param("scale", with_axes(ones, "conv_out"), shape, compute.param_dtype)
        bias = self.param("bias", with_axes(zeros, "conv_out"), shape, compute.param_dtype)
        grouped = widened(x).reshape(*x.shape[:3], self.groups, x.shape[-1] // self.groups)
        centred = grouped - jnp.mean(grouped, (1, 2, 4), keepdims=True)
        variance = jnp.mean(jnp.square(centred), (1, 2, 4), keepdims=True)
        y = (centred * jax.lax.rsqrt(variance + self.epsilon)).reshape(x.shape)
        return (y * scale + bias).astype(compute.dtype)


class Dropout(nn.Module):
    """Dropout of single values, or of whole examples (drop path, Huang et al. 2016), in training.

    The mask of an example is drawn from a key and the example's index in the global batch, so that
    it stays the same if the batch is computed in parts (`Run.accumulate`).
    """

    whole_examples: bool = False

    @nn.compact
    def __call__(
        self, x: Float[Array, "batch ..."], rate: float | Array, call: Call
    ) -> Float[Array, "batch ..."]:
        if not call.train:
            return x
        key = self.make_rng("dropout")
        shape = (1,) * (x.ndim - 1) if self.whole_examples else x.shape[1:]
        index = jnp.arange(x.shape[0]) if call.example_index is None else call.example_index
        keep = jax.vmap(lambda i: jax.random.bernoulli(jax.random.fold_in(key, i), 1 - rate, shape))
        return jnp.where(keep(index), x / jnp.asarray(1 - rate, x.dtype), jnp.zeros((), x.dtype))


def gelu(x: Float[Array, "..."]) -> Float[Array, "..."]:
    """x times the normal distribution function of x (Hendrycks & Gimpel 2016), exact.

    By the error function, as PyTorch has it: its complement, which is more exact for large negative
    values, takes XLA several passes on CPU.
    """
    wide = widened(x)
    return (wide * (1 + jax.lax.erf(wide / math.sqrt(2))) / 2).astype(x.dtype)


def gelu_tanh(x: Float[Array, "..."]) -> Float[Array, "..."]:
    """GELU by the hyperbolic tangent (Hendrycks & Gimpel 2016)."""
    return jax.nn.gelu(x, approximate=True)


def quick_gelu(x: Float[Array, "..."]) -> Float[Array, "..."]:
    """GELU by the logistic function (Hendrycks & Gimpel 2016), as CLIP was trained."""
    return x * jax.nn.sigmoid(1.702 * x)


def squared_relu(x: Float[Array, "..."]) -> Float[Array, "..."]:
    """The square of ReLU (So et al. 2021, Primer), as in Flamingo."""
    return jnp.square(jax.nn.relu(x))


Activation = Literal["gelu", "gelu_tanh", "quick_gelu", "relu", "squared_relu", "swiglu"]
ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "gelu": gelu,
    "gelu_tanh": gelu_tanh,
    "quick_gelu": quick_gelu,
    "relu": jax.nn.relu,
    "squared_relu": squared_relu,
}


class MLP(nn.Module):
    """Two linear maps with an activation between them.

    With `swiglu`, the hidden values are multiplied by SiLU of a third linear map, `gate` (Shazeer
    2020, eq. 6).
    """

    hidden: int
    activation: str
    compute: Compute
    use_bias: bool = True

    @nn.compact
    def __call__(self, x: Float[Array, "batch length embed"]) -> Float[Array, "batch length embed"]:
        def linear(size: int, axes: tuple[str, str], name: str) -> Linear:
            return Linear((size,), axes, self.compute, use_bias=self.use_bias, name=name)

        def project(name: str) -> Array:
            y = linear(self.hidden, ("embed", "mlp"), name)(x)
            y = self.compute.constrain(y, ("batch", "length", "mlp"))
            return checkpoint_name(y, "mlp_hidden")

        hidden = project("up")
        if self.activation == "swiglu":
            hidden = jax.nn.silu(project("gate")) * hidden
        else:
            hidden = ACTIVATIONS[self.activation](hidden)
        return linear(x.shape[-1], ("mlp", "embed"), "down")(hidden)
