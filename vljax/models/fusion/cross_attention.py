"""Fusion by cross-attention: tokens of one stream attend to those of another one."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

from flax import linen as nn

from vljax.models.compute import Call, Compute
from vljax.models.layers.pooling import pool
from vljax.models.layers.transformer import TransformerConfig, transformer
from vljax.models.node import ATTENTION, Encoded, Inputs, Node, width_misfit


@dataclass(frozen=True, kw_only=True)
class CrossAttention(TransformerConfig, Node, name="cross_attention"):
    """Blocks of self-attention, cross-attention and MLP, as in ALBEF and BLIP (Li et al. 2021).

    The result is a stream with the tokens of `queries`. `CoAttention` has both streams attend to
    each other.

    >>> sizes = {"width": 768, "depth": 6, "heads": 12, "mlp_dim": 3072}
    >>> CrossAttention(queries="question", **sizes).makes("fusion")
    {'fusion': ('question', 'image')}
    """

    queries: str = "text"
    """The stream whose tokens attend; it must be `width` wide. It may have several texts for each
    row of `context`."""
    context: str = "image"
    """The stream that they attend to; of any width."""
    cross_attention: Literal["none", "after_self", "before_self"] = "after_self"
    """Whether blocks attend to the context after or before they attend to their own tokens."""
    pooling: Literal["first", "last", "eos", "mean", "map"] = "mean"
    """How the resulting tokens become one vector."""

    def problems(self) -> Iterator[tuple[str, str]]:
        yield from super().problems()
        if self.cross_attention == "none":
            yield "cross_attention", "is what this fusion is for; use after_self or before_self"
        if self.queries == self.context:
            yield "context", f"is {self.context!r}, as queries; name another stream"

    def graph_problems(
        self, name: str, widths: Mapping[str, int | None]
    ) -> Iterator[tuple[str, str]]:
        if sizes := width_misfit(widths, self.queries, self.width):
            yield "queries", f"{sizes}; make them equal"

    def makes(self, name: str) -> dict[str, tuple[str, ...]]:
        return {name: (self.queries, self.context)}

    def made_if_wanted(self, name: str) -> dict[str, tuple[str, ...]]:
        return {f"{name}/{ATTENTION}": (self.queries, self.context)}

    def module(self, compute: Compute, name: str) -> nn.Module:
        return CrossAttentionModule(self, compute, name=name)


class CrossAttentionModule(nn.Module):
    """Two streams to one; see `CrossAttention`."""

    config: CrossAttention
    compute: Compute

    @nn.compact
    def __call__(self, inputs: Inputs, call: Call) -> dict[str, Encoded]:
        config, compute = self.config, self.compute
        queries, context = inputs[config.queries], inputs[config.context]
        tokens = transformer(
            queries.tokens,
            queries.mask,
            config,
            compute,
            call=call.for_rows(queries.tokens.shape[0]),
            context=context.tokens,
            context_mask=context.mask,
        )
        pooled = pool(config.pooling, tokens, queries.mask, config, compute)
        return {self.name or "": Encoded(tokens, queries.mask, pooled, queries.positions)}
