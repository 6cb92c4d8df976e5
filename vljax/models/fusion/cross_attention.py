"""Fusion by cross-attention: tokens of one stream attend to those of another one."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from vljax.models.compute import Call, Compute
from vljax.models.layers.basic import layer_norm
from vljax.models.layers.pooling import pool
from vljax.models.layers.transformer import TransformerConfig, rematerialised, transformer
from vljax.models.node import ATTENTION, Encoded, Inputs, Node


@dataclass(frozen=True, kw_only=True)
class CrossAttention(TransformerConfig, Node, name="cross_attention"):
    """Blocks of self-attention, cross-attention and MLP, as in ALBEF and BLIP (Li et al. 2021).

    The result is a stream with the tokens of `queries`. With `co_attention`, both streams attend to
    each other in each block (Lu et al. 2019, ViLBERT), and the results are two streams,
    `NAME.QUERIES` and `NAME.CONTEXT`.

    >>> sizes = {"width": 768, "depth": 6, "heads": 12, "mlp_dim": 3072}
    >>> CrossAttention(queries="question", **sizes).makes("fusion")
    {'fusion': ('question', 'image')}
    >>> list(CrossAttention(queries="question", co_attention=True, **sizes).makes("fusion"))
    ['fusion.question', 'fusion.image']
    """

    queries: str = "text"
    """The stream whose tokens attend; it must be `width` wide. It may have several texts for each
    row of `context`."""
    context: str = "image"
    """The stream that they attend to; of any width, or with `co_attention` of `width`."""
    cross_attention: Literal["none", "after_self", "before_self"] = "after_self"
    """Whether blocks attend to the context after or before they attend to their own tokens."""
    co_attention: bool = False
    """Whether tokens of the context attend to the queries too; then `scan` must be unset."""
    pooling: Literal["first", "last", "eos", "mean", "map"] = "mean"
    """How the resulting tokens become one vector."""

    def problems(self) -> Iterator[tuple[str, str]]:
        yield from super().problems()
        if self.cross_attention == "none":
            yield "cross_attention", "is what this fusion is for; use after_self or before_self"
        if self.queries == self.context:
            yield "context", f"is {self.context!r}, as queries; name another stream"
        if self.co_attention and self.scan:
            yield "co_attention", "runs two stacks of blocks in step; unset scan"
        if self.co_attention and self.cross_every != 1:
            yield "cross_every", "must be 1 with co_attention, where every block attends"
        if self.co_attention and self.pooling == "map":
            yield "pooling", "map is for one stream; use another one with co_attention"

    def graph_problems(
        self, name: str, widths: Mapping[str, int | None]
    ) -> Iterator[tuple[str, str]]:
        for field in ("queries", "context") if self.co_attention else ("queries",):
            stream = getattr(self, field)
            if widths[stream] not in (None, self.width):
                sizes = f"{stream!r} is {widths[stream]} wide but width is {self.width}"
                yield field, f"{sizes}; make them equal"

    def makes(self, name: str) -> dict[str, tuple[str, ...]]:
        both = (self.queries, self.context)
        if not self.co_attention:
            return {name: both}
        return {f"{name}.{stream}": both for stream in both}

    def made_if_wanted(self, name: str) -> dict[str, tuple[str, ...]]:
        if self.co_attention:
            return {}
        return {f"{name}/{ATTENTION}": (self.queries, self.context)}

    def module(self, compute: Compute, name: str) -> nn.Module:
        return CrossAttentionModule(self, compute, name=name)


class CrossAttentionModule(nn.Module):
    """Two streams to one, or with co-attention to two; see `CrossAttention`."""

    config: CrossAttention
    compute: Compute

    @nn.compact
    def __call__(self, inputs: Inputs, call: Call) -> dict[str, Encoded]:
        config, compute = self.config, self.compute
        queries, context = inputs[config.queries], inputs[config.context]
        texts = queries.tokens.shape[0] // context.tokens.shape[0]
        if config.co_attention:
            return self._co_attention(queries, context, texts, call)
        tokens = transformer(
            queries.tokens,
            queries.mask,
            config,
            compute,
            call=call.for_rows(len(queries.tokens)),
            context=context.tokens,
            context_mask=context.mask,
        )
        pooled = pool(config.pooling, tokens, queries.mask, config, compute)
        return {self.name or "": Encoded(tokens, queries.mask, pooled, queries.positions)}

    def _co_attention(
        self, queries: Encoded, context: Encoded, texts: int, call: Call
    ) -> dict[str, Encoded]:
        config, call = self.config, call.for_rows(len(queries.tokens))
        # Each text changes the image tokens in its own way, so each has its own copy of them.
        context = jax.tree.map(lambda x: jnp.repeat(x, texts, axis=0), context)
        sides = {config.queries: queries, config.context: context}
        other = {config.queries: config.context, config.context: config.queries}
        stacks = {name: _Side(config, self.compute, name=name) for name in sides}
        tokens = {name: stream.tokens for name, stream in sides.items()}
        for i in range(config.depth):
            tokens = {
                name: stack(
                    i, tokens[name], tokens[other[name]], sides[name], sides[other[name]], call
                )
                for name, stack in stacks.items()
            }
        return {
            f"{self.name}.{name}": Encoded(
                tokens[name],
                stream.mask,
                pool(config.pooling, tokens[name], stream.mask, config, self.compute),
                stream.positions,
            )
            for name, stream in sides.items()
        }


class _Side(nn.Module):
    """The blocks of one stream, called one at a time; the last one is followed by the norm."""

    config: CrossAttention
    compute: Compute

    @nn.compact
    def __call__(
        self, i: int, x: Array, context: Array, own: Encoded, other: Encoded, call: Call
    ) -> Float[Array, "batch length embed"]:
        config = self.config
        x = _Blocks(config, self.compute, name="blocks")(i, x, context, own, other, call)
        if i + 1 < config.depth or config.post_norm:
            return x
        return layer_norm(self.compute, config.norm_epsilon, "norm")(x)


class _Blocks(nn.Module):
    """Blocks with parameters under `0`, `1`, ..., called one at a time."""

    config: CrossAttention
    compute: Compute

    @nn.compact
    def __call__(
        self, i: int, x: Array, context: Array, own: Encoded, other: Encoded, call: Call
    ) -> Float[Array, "batch length embed"]:
        rate = jnp.linspace(0, self.config.drop_path, self.config.depth, dtype=jnp.float32)[i]
        block = rematerialised(self.config)(self.config, False, self.compute, True, name=str(i))
        x, _ = block(x, rate, own.mask, call, context, other.mask, None)
        return x
