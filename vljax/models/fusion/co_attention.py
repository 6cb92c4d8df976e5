"""Fusion by co-attention: tokens of two streams attend to each other."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from vljax.models.compute import Call, Compute
from vljax.models.fusion.fusion import Fusion, aligned
from vljax.models.layers.attention import Attention
from vljax.models.layers.basic import Linear, layer_norm
from vljax.models.layers.pooling import pool
from vljax.models.layers.transformer import TransformerConfig, rematerialised
from vljax.models.node import Encoded, Inputs
from vljax.models.numerics import widened

Both = tuple[Float[Array, "batch length embed"], Float[Array, "batch other_length embed"]]
"""The tokens of the two streams."""


@dataclass(frozen=True, kw_only=True)
class CoAttention(TransformerConfig, Fusion, name="co_attention"):
    """Two streams whose blocks attend to each other and to themselves; the results are two streams.

    In each block, tokens of both streams attend to those of the other one as they were before the
    block: the co-attention of ViLBERT (Lu et al. 2019, figure 2b). The streams are `NAME.STREAM`.
    The cross-modality layers of LXMERT (Tan & Bansal 2019, section 2.2) have the fields of the
    example.

    >>> sizes = {"width": 768, "depth": 5, "heads": 12, "mlp_dim": 3072}
    >>> lxmert = {"cross_attention": "before_self", "shared": True, "post_norm": True}
    >>> list(CoAttention(streams=("question", "regions"), **lxmert, **sizes).makes("fusion"))
    ['fusion.question', 'fusion.regions']
    """

    cross_attention: Literal["none", "after_self", "before_self"] = "after_self"
    """Whether blocks attend to the other stream after or before they attend to their own tokens."""
    shared: bool = False
    """Whether both directions have the same cross-attention and its norm, as in LXMERT."""
    pooling: Literal["first", "last", "eos", "mean"] = "mean"
    """How the tokens of each resulting stream become one vector."""
    poolers: tuple[str, ...] = ()
    """The streams whose pooled vector goes through a linear map and tanh, as in BERT."""

    def problems(self) -> Iterator[tuple[str, str]]:
        yield from TransformerConfig.problems(self)
        yield from Fusion.problems(self)
        if len(self.streams) > 2:
            yield "streams", f"names {len(self.streams)} streams; co-attention has two"
        if self.cross_attention == "none":
            yield "cross_attention", "is what this fusion is for; use after_self or before_self"
        if self.cross_every != 1:
            yield "cross_every", "must be 1: every block attends to the other stream"
        for stream in self.poolers:
            if stream not in self.streams:
                yield "poolers", f"{stream!r} is not one of streams; name one of them"

    def graph_problems(
        self, name: str, widths: Mapping[str, int | None]
    ) -> Iterator[tuple[str, str]]:
        yield from self.width_problems(widths, self.width)

    def makes(self, name: str) -> dict[str, tuple[str, ...]]:
        return {f"{name}.{stream}": self.streams for stream in self.streams}

    def module(self, compute: Compute, name: str) -> nn.Module:
        return CoAttentionModule(self, compute, name=name)


class CoAttentionModule(nn.Module):
    """Two streams to two; see `CoAttention`."""

    config: CoAttention
    compute: Compute

    @nn.compact
    def __call__(self, inputs: Inputs, call: Call) -> dict[str, Encoded]:
        config, compute = self.config, self.compute
        # Each text changes the image tokens in its own way, so each has its own copy of them.
        (left, right), call = aligned(inputs, config.streams, call)
        tokens = (left.tokens, right.tokens)
        rates = jnp.linspace(0, config.drop_path, config.depth, dtype=jnp.float32)
        if config.scan:
            scan = nn.scan(
                lambda block, x, rate: (block(x, rate, (left, right), call), None),
                variable_axes={"params": 0, "intermediates": 0},
                split_rngs={"params": True, "dropout": True},
                length=config.depth,
                metadata_params={nn.PARTITION_NAME: "layers"},
            )
            tokens, _ = scan(_CoBlock(config, compute, name="blocks"), tokens, rates)
        else:
            tokens = _CoBlocks(config, compute, name="blocks")(tokens, rates, (left, right), call)
        made = {}
        for name, stream, x in zip(config.streams, (left, right), tokens, strict=True):
            if not config.post_norm:
                x = layer_norm(compute, config.norm_epsilon, f"{name}_norm")(x)
            pooled = pool(config.pooling, x, stream.mask, config, compute)
            if name in config.poolers:
                linear = Linear((config.width,), ("embed", "none"), compute, name=f"{name}_pooler")
                pooled = jnp.tanh(widened(linear(pooled))).astype(compute.dtype)
            made[f"{self.name}.{name}"] = Encoded(x, stream.mask, pooled, stream.positions)
        return made


class _CoBlock(nn.Module):
    """A block of each stream, stored under the name of the stream."""

    config: CoAttention
    compute: Compute

    @nn.compact
    def __call__(
        self, tokens: Both, rate: Array, streams: tuple[Encoded, Encoded], call: Call
    ) -> Both:
        config, compute = self.config, self.compute
        shared = None
        if config.shared:
            attention = Attention(config.width, config.heads, compute, name="cross_attention")
            norm = layer_norm(compute, config.norm_epsilon, "cross_attention_norm")
            shared = attention, norm

        def block(own: int, other: int) -> Array:
            name, mask = config.streams[own], streams[own].mask
            made = rematerialised(config)(config, False, compute, True, shared, name=name)
            context, context_mask = tokens[other], streams[other].mask
            return made(tokens[own], rate, mask, call, context, context_mask, None)[0]

        return block(0, 1), block(1, 0)


class _CoBlocks(nn.Module):
    """Blocks one after the other, with parameters under `0`, `1`, ..."""

    config: CoAttention
    compute: Compute

    @nn.compact
    def __call__(
        self,
        tokens: Both,
        rates: Float[Array, "layers"],
        streams: tuple[Encoded, Encoded],
        call: Call,
    ) -> Both:
        for i in range(self.config.depth):
            block = _CoBlock(self.config, self.compute, name=str(i))
            tokens = block(tokens, rates[i], streams, call)
        return tokens
