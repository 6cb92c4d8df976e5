"""Early fusion: the tokens of all streams in one transformer."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from vljax.models.compute import Call, Compute
from vljax.models.fusion.fusion import Fusion, aligned, joint_positions
from vljax.models.layers.basic import Linear, layer_norm
from vljax.models.layers.pooling import pool
from vljax.models.layers.transformer import TransformerConfig, transformer
from vljax.models.node import ATTENTION, Encoded, Inputs
from vljax.models.numerics import widened
from vljax.models.parameters import with_axes


@dataclass(frozen=True, kw_only=True)
class SingleStream(TransformerConfig, Fusion, name="single_stream"):
    """One transformer over the tokens of all streams, as in VL-BERT, VisualBERT and ViLT.

    The tokens, each with the learned embedding of its stream, are concatenated in the order of
    `streams`, and each attends to all (Kim et al. 2021, ViLT, eq. 1 to 5; Li et al. 2019,
    VisualBERT, section 3.2; Su et al. 2020, VL-BERT, section 3.2). The results are the joint stream
    `NAME`, and the part of it that belongs to each stream, `NAME.STREAM`.

    Encoders may be shallow here: with `depth` 0, a `TextTransformer` gives the embeddings of its
    tokens and a `ViT` those of its patches.

    >>> sizes = {"width": 768, "depth": 12, "heads": 12, "mlp_dim": 3072}
    >>> list(SingleStream(streams=("question", "image"), **sizes).makes("fusion"))
    ['fusion', 'fusion.question', 'fusion.image']
    """

    types: bool = True
    """Whether a learned vector of its stream is added to each token (the token types of BERT)."""
    projected: tuple[str, ...] = ()
    """Streams whose tokens a linear map brings to `width`; all others must be `width` wide."""
    embedding_norm: bool = False
    """A layer norm over the tokens of all streams before the first block, as in VisualBERT."""
    pooling: Literal["first", "mean", "map"] = "first"
    """How all tokens become one vector; first: the first token of the first stream (CLS)."""
    pooler: bool = False
    """Whether a linear map and tanh follow the pooling of all tokens, as in BERT."""
    stream_pooling: Literal["first", "mean", "before_eos"] = "mean"
    """How the tokens of each stream become one vector; before_eos: the one before the last token,
    the last word of a text, which VisualBERT's question answering reads."""

    def problems(self) -> Iterator[tuple[str, str]]:
        yield from TransformerConfig.problems(self)
        yield from Fusion.problems(self)
        if self.cross_attention != "none":
            yield "cross_attention", "all tokens attend to each other here; use none"
        for stream in self.projected:
            if stream not in self.streams:
                known = ", ".join(self.streams)
                yield "projected", f"{stream!r} is not one of the streams ({known})"

    def graph_problems(
        self, name: str, widths: Mapping[str, int | None]
    ) -> Iterator[tuple[str, str]]:
        as_they_are = [stream for stream in self.streams if stream not in self.projected]
        for field, message in self.width_problems(widths, self.width, as_they_are):
            yield field, f"{message}, or name it in projected"

    def makes(self, name: str) -> dict[str, tuple[str, ...]]:
        names = (name, *(f"{name}.{stream}" for stream in self.streams))
        return dict.fromkeys(names, self.streams)

    def made_if_wanted(self, name: str) -> dict[str, tuple[str, ...]]:
        return {f"{name}/{ATTENTION}": self.streams}

    def module(self, compute: Compute, name: str) -> nn.Module:
        return SingleStreamModule(self, compute, name=name)


class SingleStreamModule(nn.Module):
    """Several streams to one, and its parts; see `SingleStream`."""

    config: SingleStream
    compute: Compute

    @nn.compact
    def __call__(self, inputs: Inputs, call: Call) -> dict[str, Encoded]:
        config, compute = self.config, self.compute
        streams, call = aligned(inputs, config.streams, call)
        x = self._embedded([stream.tokens for stream in streams])
        mask = jnp.concatenate([stream.mask for stream in streams], axis=1)
        if config.embedding_norm:
            x = layer_norm(compute, config.norm_epsilon, "embedding_norm")(x)
        tokens = transformer(x, mask, config, compute, call=call)
        pooled = pool(config.pooling, tokens, mask, config, compute)
        if config.pooler:
            linear = Linear((config.width,), ("embed", "none"), compute, name="pooler")
            pooled = jnp.tanh(widened(linear(pooled))).astype(compute.dtype)
        made = {self.name or "": Encoded(tokens, mask, pooled, joint_positions(streams))}
        start = 0
        for name, stream in zip(config.streams, streams, strict=True):
            end = start + stream.tokens.shape[1]
            own = tokens[:, start:end]
            vector = pool(config.stream_pooling, own, stream.mask, config, compute)
            made[f"{self.name}.{name}"] = Encoded(own, stream.mask, vector, stream.positions)
            start = end
        return made

    def _embedded(self, tokens: Sequence[Array]) -> Float[Array, "batch length embed"]:
        """The tokens of all streams, projected and with the embeddings of their types."""
        config, compute = self.config, self.compute
        parts = []
        for name, x in zip(config.streams, tokens, strict=True):
            if name in config.projected:
                linear = Linear((config.width,), ("none", "embed"), compute, name=f"project_{name}")
                x = linear(x)
            parts.append(x.astype(compute.dtype))
        if config.types:
            init = with_axes(nn.initializers.normal(0.02), "none", "embed")
            shape = (len(config.streams), config.width)
            types = self.param("types", init, shape, compute.param_dtype).astype(compute.dtype)
            parts = [x + own for x, own in zip(parts, types, strict=True)]
        return compute.constrain(jnp.concatenate(parts, axis=1), ("batch", "length", "embed"))
