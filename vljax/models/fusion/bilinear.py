"""Low-rank bilinear fusions of one vector for each stream: MUTAN and MFB."""

from __future__ import annotations

import functools
import operator
from collections.abc import Iterator
from dataclasses import dataclass

import jax.numpy as jnp
from einops import reduce
from flax import linen as nn
from jaxtyping import Array, Float

from vljax.models.compute import Call, Compute
from vljax.models.fusion.fusion import Fusion, aligned, of_vector, pooled
from vljax.models.fusion.vectors import Activation, Projections, size_problems
from vljax.models.layers.basic import Dropout, Linear
from vljax.models.node import Encoded, Inputs
from vljax.models.numerics import unit, widened


@dataclass(frozen=True, kw_only=True)
class Mutan(Fusion, name="mutan"):
    """Tucker fusion with a core tensor of low rank (Ben-younes et al. 2017, section 3).

    x_s = activation(W_s v_s + b_s) for each stream s, and z = sum over r = 1..rank of the
    element-wise product of all M_rs x_s + c_rs. The classifier after it is the paper's W_o.

    >>> fusion = Mutan(streams=("image", "question"), projected=360, width=512, rank=10)
    >>> fusion.makes("fusion"), fusion.width_of("fusion")
    ({'fusion': ('image', 'question')}, 512)
    """

    width: int
    """Size of the fused vector, t_o."""
    projected: int
    """Size of each projected vector, t_q and t_v."""
    rank: int = 5
    """Rank of the slices of the core tensor, R."""
    activation: Activation = "tanh"
    """Applied to the projected vectors."""
    dropout: float = 0.0
    """Probability that a value of a projected vector is dropped in training."""

    def problems(self) -> Iterator[tuple[str, str]]:
        yield from super().problems()
        yield from size_problems(self, "width", "projected", "rank")

    def module(self, compute: Compute, name: str) -> nn.Module:
        return MutanModule(self, compute, name=name)


class MutanModule(nn.Module):
    """Pooled vectors to one vector; see `Mutan`."""

    config: Mutan
    compute: Compute

    @nn.compact
    def __call__(self, inputs: Inputs, call: Call) -> dict[str, Encoded]:
        config, compute = self.config, self.compute
        streams, call = aligned(inputs, config.streams, call)
        vectors = dict(zip(config.streams, map(pooled, streams), strict=True))
        project = Projections(config.projected, config.activation, compute, name="project")
        factors = []
        for name, x in zip(config.streams, project(vectors), strict=True):
            if config.dropout:
                x = Dropout(name=f"{name}_dropout")(x, config.dropout, call)
            axes = ("mlp", "rank", "embed")
            core = Linear((config.rank, config.width), axes, compute, name=f"{name}_core")
            factors.append(core(x))
        # The products of all ranks are summed in at least float32.
        product = widened(functools.reduce(operator.mul, factors))
        fused = reduce(product, "batch rank width -> batch width", "sum")
        fused = compute.constrain(fused.astype(compute.dtype), ("batch", "embed"))
        return {self.name or "": of_vector(fused)}


@dataclass(frozen=True, kw_only=True)
class Mfb(Fusion, name="mfb"):
    """Multi-modal factorized bilinear pooling (Yu et al. 2017, section 3, eq. 3).

    The element-wise product of the projected vectors, of size factor * width, is summed over each
    `factor` consecutive values; then come the signed square root, sign(z) |z|^0.5, and the
    division by the L2 norm.

    >>> fusion = Mfb(streams=("image", "question"), width=1000, factor=5, dropout=0.1)
    >>> fusion.makes("fusion"), fusion.width_of("fusion")
    ({'fusion': ('image', 'question')}, 1000)
    """

    width: int
    """Size of the fused vector, o."""
    factor: int = 5
    """How many products are summed for each of its values, k."""
    dropout: float = 0.0
    """Probability that a product is dropped in training, before the sum."""

    def problems(self) -> Iterator[tuple[str, str]]:
        yield from super().problems()
        yield from size_problems(self, "width", "factor")

    def module(self, compute: Compute, name: str) -> nn.Module:
        return MfbModule(self, compute, name=name)


class MfbModule(nn.Module):
    """Pooled vectors to one vector of unit length; see `Mfb`."""

    config: Mfb
    compute: Compute

    @nn.compact
    def __call__(self, inputs: Inputs, call: Call) -> dict[str, Encoded]:
        config, compute = self.config, self.compute
        streams, call = aligned(inputs, config.streams, call)
        vectors = dict(zip(config.streams, map(pooled, streams), strict=True))
        project = Projections(config.width * config.factor, "none", compute, name="project")
        product = functools.reduce(operator.mul, project(vectors))
        if config.dropout:
            product = Dropout(name="dropout")(product, config.dropout, call)
        pattern = "batch (width factor) -> batch width"
        fused = reduce(widened(product), pattern, "sum", factor=config.factor)
        fused = unit(signed_square_root(fused)).astype(compute.dtype)
        return {self.name or "": of_vector(compute.constrain(fused, ("batch", "embed")))}


def signed_square_root(x: Float[Array, "..."]) -> Float[Array, "..."]:
    """sign(x) |x|^0.5; the gradient at 0, where the formula's is infinite, is 0.

    >>> signed_square_root(jnp.array([-4.0, 0.0, 9.0]))
    Array([-2.,  0.,  3.], dtype=float32)
    """
    there = x != 0
    return jnp.where(there, jnp.sign(x) * jnp.sqrt(jnp.abs(jnp.where(there, x, 1))), 0)
