"""Fusions of one vector for each stream: concatenation, sum and product."""

from __future__ import annotations

import abc
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from vljax.models.compute import Call, Compute
from vljax.models.fusion.fusion import Fusion, aligned, of_vector, pooled
from vljax.models.layers.basic import Dropout, Linear, gelu, gelu_tanh
from vljax.models.node import Encoded, Inputs

Activation = Literal["none", "tanh", "relu", "gelu", "gelu_tanh"]
ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "none": lambda x: x,
    "tanh": jnp.tanh,
    "relu": jax.nn.relu,
    "gelu": gelu,
    "gelu_tanh": gelu_tanh,
}


class Projections(nn.Module):
    """A linear map with an activation for each stream, with parameters under the stream's name."""

    width: int
    activation: Activation
    compute: Compute
    axis: str = "mlp"
    """Logical name of the new axis."""

    @nn.compact
    def __call__(self, vectors: Mapping[str, Float[Array, "... _"]]) -> list[Array]:
        axes = ("embed", self.axis)
        return [
            ACTIVATIONS[self.activation](Linear((self.width,), axes, self.compute, name=name)(x))
            for name, x in vectors.items()
        ]


def size_problems(config: object, *names: str) -> Iterator[tuple[str, str]]:
    """For `problems` of fusions: sizes below 1, and a `dropout` that is not a probability."""
    for name in names:
        value = getattr(config, name)
        if value is not None and value < 1:
            yield name, f"must be at least 1, not {value}"
    rate = getattr(config, "dropout", 0.0)
    if not 0 <= rate < 1:
        yield "dropout", f"must be in [0, 1), not {rate}"


@dataclass(frozen=True, kw_only=True)
class VectorFusion(Fusion, abc.ABC):
    """Base class of fusions of projected vectors: x_s = activation(W_s v_s + b_s) for stream s.

    v_s is the pooled vector of the stream, or the mean of its tokens if it has none. A member says
    how the projected vectors are combined.
    """

    width: int
    """Size of a projected vector."""
    activation: Activation = "tanh"
    """Applied to the projected vectors, and after the hidden layer."""
    hidden: int | None = None
    """Size of a hidden layer after the fusion; None for none."""
    dropout: float = 0.0
    """Probability that a value of the fused vector is dropped in training."""

    @abc.abstractmethod
    def combine(
        self, vectors: Sequence[Float[Array, "batch width"]]
    ) -> Float[Array, "batch fused"]:
        """The fused vector."""

    def fused_width(self) -> int:
        """The size of the fused vector, before the hidden layer."""
        return self.width

    def problems(self) -> Iterator[tuple[str, str]]:
        yield from super().problems()
        yield from size_problems(self, "width", "hidden")

    def width_of(self, stream: str) -> int:
        return self.fused_width() if self.hidden is None else self.hidden

    def module(self, compute: Compute, name: str) -> nn.Module:
        return VectorModule(self, compute, name=name)


@dataclass(frozen=True, kw_only=True)
class Concatenation(VectorFusion, name="concatenation"):
    """The projected vectors side by side: [x_1; x_2; ...].

    >>> fusion = Concatenation(streams=("image", "question"), width=512)
    >>> fusion.makes("fusion"), fusion.width_of("fusion")
    ({'fusion': ('image', 'question')}, 1024)
    """

    def fused_width(self) -> int:
        return self.width * len(self.streams)

    def combine(self, vectors: Sequence[Array]) -> Array:
        return jnp.concatenate(vectors, axis=-1)


@dataclass(frozen=True, kw_only=True)
class Sum(VectorFusion, name="sum"):
    """The sum of the projected vectors: x_1 + x_2 + ...

    >>> Sum(streams=("image", "question"), width=512, hidden=256).width_of("fusion")
    256
    """

    def combine(self, vectors: Sequence[Array]) -> Array:
        return sum(vectors[1:], start=vectors[0])


@dataclass(frozen=True, kw_only=True)
class Product(VectorFusion, name="product"):
    """The element-wise product of the projected vectors (Antol et al. 2015).

    With a linear map after it, a bilinear form of low rank (Kim et al. 2017, MLB).

    >>> Product(streams=("image", "question"), width=512).makes("fusion")
    {'fusion': ('image', 'question')}
    """

    def combine(self, vectors: Sequence[Array]) -> Array:
        return math.prod(vectors[1:], start=vectors[0])


class VectorModule(nn.Module):
    """Pooled vectors to one vector; see `VectorFusion`."""

    config: VectorFusion
    compute: Compute

    @nn.compact
    def __call__(self, inputs: Inputs, call: Call) -> dict[str, Encoded]:
        config, compute = self.config, self.compute
        streams, call = aligned(inputs, config.streams, call)
        vectors = dict(zip(config.streams, map(pooled, streams), strict=True))
        project = Projections(config.width, config.activation, compute, name="project")
        fused = config.combine(project(vectors))
        if config.dropout:
            fused = Dropout(name="dropout")(fused, config.dropout, call)
        if config.hidden is not None:
            hidden = Linear((config.hidden,), ("mlp", "embed"), compute, name="hidden")
            fused = ACTIVATIONS[config.activation](hidden(fused))
        return {self.name or "": of_vector(compute.constrain(fused, ("batch", "embed")))}
