"""Embeddings of pooled features in a shared space."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Literal

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array

from vljax.models.compute import Call, Compute
from vljax.models.layers.basic import Linear
from vljax.models.node import Inputs, Node
from vljax.models.numerics import unit, widened


@dataclass(frozen=True)
class Embedding(Node, name="embedding"):
    """One vector for each stream in a shared space, as outputs `STREAM/embedding`.

    >>> Embedding(512, {"image": "linear", "text": "affine"}).makes("embedding")
    {'image/embedding': ('image',), 'text/embedding': ('text',)}
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
        if not self.projections:
            yield "projections", "names no stream; name those to embed, such as image and text"

    def graph_problems(
        self, name: str, widths: Mapping[str, int | None]
    ) -> Iterator[tuple[str, str]]:
        for stream, projection in self.projections.items():
            width = widths[stream]
            if projection == "none" and width not in (None, self.dim):
                sizes = f"{stream!r} is {width} wide but dim is {self.dim}"
                yield "projections", f"{sizes}; use linear or affine, or equal sizes"

    def module(self, compute: Compute, name: str) -> nn.Module:
        return EmbeddingModule(self, compute, name=name)

    def makes(self, name: str) -> dict[str, tuple[str, ...]]:
        return {f"{stream}/embedding": (stream,) for stream in self.projections}


class EmbeddingModule(nn.Module):
    """Pooled features to embeddings, in at least float32."""

    config: Embedding
    compute: Compute

    @nn.compact
    def __call__(self, inputs: Inputs, call: Call) -> dict[str, Array]:
        config = self.config
        outputs = {}
        for name, projection in config.projections.items():
            if name not in inputs:
                continue
            x = inputs[name].pooled
            if projection != "none":
                bias = projection != "linear"
                linear = Linear((config.dim,), ("embed", "none"), self.compute, 1, bias, name=name)
                x = linear(x)
            x = jnp.tanh(widened(x)) if projection == "tanh" else widened(x)
            outputs[f"{name}/embedding"] = unit(x) if config.normalize else x
        return outputs
