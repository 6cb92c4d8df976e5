"""Embeddings of pooled features in a shared space."""

from __future__ import annotations

import abc
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Literal

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array

from vljax.config import Component
from vljax.models.compute import Compute
from vljax.models.encoder import Encoded
from vljax.models.layers.basic import Linear
from vljax.models.numerics import unit, widened


class Head(Component, abc.ABC):
    """Base class of heads: components that turn encoded streams into named arrays.

    Its module is called as `(streams) -> dict[name, array]`; `streams` lacks the modalities that
    the batch lacks.
    """

    @abc.abstractmethod
    def module(self, compute: Compute, name: str) -> nn.Module:
        """The Flax module; its parameters are stored under `name`."""

    @abc.abstractmethod
    def reads(self) -> tuple[str, ...]:
        """Names of the encoders that the head reads."""


@dataclass(frozen=True)
class Embedding(Head, name="embedding"):
    """One vector for each stream in a shared space, as outputs `STREAM/embedding`.

    >>> Embedding(512, {"image": "linear", "text": "affine"}).reads()
    ('image', 'text')
    """

    dim: int
    """Size of the shared space."""
    projections: dict[str, Literal["none", "linear", "affine", "tanh"]] = field(
        default_factory=lambda: {"image": "linear", "text": "linear"}
    )
    """For each stream: none (its width must be `dim`), linear (as in CLIP), affine (linear with a
    bias), tanh (affine, then tanh: the pooler of BERT)."""
    normalize: bool = True
    """Whether embeddings have unit length."""

    def problems(self) -> Iterator[tuple[str, str]]:
        if self.dim < 1:
            yield "dim", f"must be at least 1, not {self.dim}"

    def module(self, compute: Compute, name: str) -> nn.Module:
        return EmbeddingModule(self, compute, name=name)

    def reads(self) -> tuple[str, ...]:
        return tuple(self.projections)


class EmbeddingModule(nn.Module):
    """Pooled features to embeddings, in at least float32."""

    config: Embedding
    compute: Compute

    @nn.compact
    def __call__(self, streams: dict[str, Encoded]) -> dict[str, Array]:
        config = self.config
        outputs = {}
        for name, projection in config.projections.items():
            if name not in streams:
                continue
            x = streams[name].pooled
            if projection != "none":
                bias = projection != "linear"
                linear = Linear((config.dim,), ("embed", "none"), self.compute, 1, bias, name=name)
                x = linear(x)
            x = jnp.tanh(widened(x)) if projection == "tanh" else widened(x)
            outputs[f"{name}/embedding"] = unit(x) if config.normalize else x
        return outputs
