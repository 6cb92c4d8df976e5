"""The MLP of a transformer block, and its activations."""

from __future__ import annotations

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.ad_checkpoint import checkpoint_name
from jaxtyping import Array, Float

from vljax.models.compute import Compute
from vljax.models.layers.linear import Linear
from vljax.models.precision import widened


@jax.custom_vjp
def gelu(x: Float[Array, "..."]) -> Float[Array, "..."]:
    """x times the normal distribution function of x (Hendrycks & Gimpel 2016), exact.

    By the error function, as PyTorch has it: its complement, which is more exact for large negative
    values, takes XLA several passes on CPU. The gradient is written out, so that a pass makes it.
    """
    return _gelu(x)[0]


def _gelu(x: Array) -> tuple[Array, Array]:
    wide = widened(x)
    return (wide * _normal_cdf(wide)).astype(x.dtype), x


def _gelu_gradient(x: Array, gradient: Array) -> tuple[Array]:
    wide = widened(x)
    density = jnp.exp(-jnp.square(wide) / 2) / math.sqrt(2 * math.pi)
    slope = _normal_cdf(wide) + wide * density
    return ((widened(gradient) * slope).astype(x.dtype),)


def _normal_cdf(x: Array) -> Array:
    return (1 + jax.lax.erf(x / math.sqrt(2))) / 2


gelu.defvjp(_gelu, _gelu_gradient)


def gelu_tanh(x: Float[Array, "..."]) -> Float[Array, "..."]:
    """GELU by the hyperbolic tangent (Hendrycks & Gimpel 2016)."""
    return jax.nn.gelu(x, approximate=True)


def quick_gelu(x: Float[Array, "..."]) -> Float[Array, "..."]:
    """GELU by the logistic function (Hendrycks & Gimpel 2016), as CLIP was trained."""
    return x * jax.nn.sigmoid(1.702 * x)


ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "gelu": gelu,
    "gelu_tanh": gelu_tanh,
    "quick_gelu": quick_gelu,
}


class MLP(nn.Module):
    """Two linear maps with an activation between them.

    With `swiglu`, the hidden values are multiplied by SiLU of a third linear map, `gate` (Shazeer
    2020, eq. 6).
    """

    hidden: int
    activation: str
    compute: Compute

    @nn.compact
    def __call__(self, x: Float[Array, "batch length embed"]) -> Float[Array, "batch length embed"]:
        def project(name: str) -> Array:
            y = Linear((self.hidden,), ("embed", "mlp"), self.compute, name=name)(x)
            y = self.compute.constrain(y, ("batch", "length", "mlp"))
            return checkpoint_name(y, "mlp_hidden")

        hidden = project("up")
        if self.activation == "swiglu":
            hidden = jax.nn.silu(project("gate")) * hidden
        else:
            hidden = ACTIVATIONS[self.activation](hidden)
        return Linear((x.shape[-1],), ("mlp", "embed"), self.compute, name="down")(hidden)
