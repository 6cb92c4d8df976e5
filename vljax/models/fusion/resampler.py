"""Fusion by learned queries: the Perceiver resampler and the Q-Former."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from vljax.models.compute import Call, Compute
from vljax.models.layers.attention import Attention
from vljax.models.layers.basic import MLP, Activation, Linear, layer_norm
from vljax.models.layers.pooling import mean
from vljax.models.layers.transformer import (
    Block,
    Cache,
    ContextMask,
    TokenMask,
    TransformerConfig,
    transformer,
)
from vljax.models.node import ATTENTION, Encoded, Inputs, Node, width_misfit
from vljax.models.parameters import with_axes


@dataclass(frozen=True, kw_only=True)
class Resampler(TransformerConfig, Node, name="resampler"):
    """Learned queries that attend to a stream (Alayrac et al. 2022, Flamingo, fig. 5).

    In each block, queries attend to the tokens of the stream and to the queries together, then pass
    an MLP. The result is a stream of `num_queries` tokens, however long the other one is. There is
    no self-attention apart from that, and there are no biases in linear maps.

    `NAME/attention` has the tokens of the stream as keys, then the queries.

    >>> sizes = {"width": 1024, "depth": 6, "heads": 16, "mlp_dim": 4096}
    >>> resampler = Resampler(context="image", num_queries=64, **sizes)
    >>> resampler.makes("summary"), resampler.width_of("summary")
    ({'summary': ('image',)}, 1024)
    """

    context: str = "image"
    """The stream that they attend to; `width` wide unless there is an input projection."""
    num_queries: int = 64
    """Number of learned queries, and of tokens of the result."""
    input_projection: bool = False
    """Whether a linear map brings tokens of the stream to `width` first."""
    activation: Activation = "squared_relu"  # type: ignore[assignment]
    """Of the MLP; relu in Idefics."""
    query_key_norm: bool = False
    """Whether layer norms are applied to each head's queries and keys, as in Idefics."""
    cross_attention: Literal["none", "after_self", "before_self"] = "before_self"
    """Queries attend to the stream and to themselves at once; leave it at before_self."""

    def problems(self) -> Iterator[tuple[str, str]]:
        yield from super().problems()
        if self.num_queries < 1:
            yield "num_queries", f"must be at least 1, not {self.num_queries}"
        wanted = {"cross_attention": "before_self", "cross_every": 1, "post_norm": False}
        for field, value in wanted.items():
            if getattr(self, field) != value:
                has = getattr(self, field)
                yield field, f"every block of a resampler is the same; use {value}, not {has}"

    def graph_problems(
        self, name: str, widths: Mapping[str, int | None]
    ) -> Iterator[tuple[str, str]]:
        sizes = width_misfit(widths, self.context, self.width)
        if sizes and not self.input_projection:
            yield "context", f"{sizes}; make them equal, or set input_projection"

    def makes(self, name: str) -> dict[str, tuple[str, ...]]:
        return {name: (self.context,)}

    def made_if_wanted(self, name: str) -> dict[str, tuple[str, ...]]:
        return {f"{name}/{ATTENTION}": (self.context,)}

    def module(self, compute: Compute, name: str) -> nn.Module:
        return ResamplerModule(self, compute, name=name)


class ResamplerModule(nn.Module):
    """A stream to one of learned queries; see `Resampler`."""

    config: Resampler
    compute: Compute

    @nn.compact
    def __call__(self, inputs: Inputs, call: Call) -> dict[str, Encoded]:
        config, compute = self.config, self.compute
        stream: Encoded = inputs[config.context]
        tokens, mask = stream.tokens, stream.mask
        rows = tokens.shape[0]
        if config.input_projection:
            # The width of the stream is not split: both axes cannot be `embed`.
            axes = ("none", "embed")
            tokens = Linear((config.width,), axes, compute, name="input_projection")(tokens)
        queries = _learned_queries(self, rows)
        x = transformer(
            queries,
            None,
            config,
            compute,
            call=call.for_rows(rows),
            context=tokens,
            context_mask=mask,
            block=ResamplerBlock,
        )
        return {f"{self.name}": _of_queries(x)}


class ResamplerBlock(Block):
    """Attention of queries to tokens and queries, and an MLP."""

    config: Resampler

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "batch queries embed"],
        drop_path: Float[Array, ""],
        mask: TokenMask,
        call: Call,
        context: Float[Array, "batch keys embed"] | None,
        context_mask: ContextMask,
        cache: Cache | None,
    ) -> tuple[Float[Array, "batch queries embed"], Cache | None]:
        config, compute = self.config, self.compute
        assert context is not None  # `transformer` saw to it
        assert context_mask is not None
        attention = Attention(
            config.width,
            config.heads,
            compute,
            use_bias=False,
            query_key_norm="layer" if config.query_key_norm else "none",
            epsilon=config.norm_epsilon,
            name="cross_attention",
        )
        y = self.before(x, "cross_attention")
        context = layer_norm(compute, config.norm_epsilon, "context_norm")(context)
        keys = compute.constrain(jnp.concatenate([context, y], 1), ("batch", "length", "embed"))
        seen = jnp.concatenate([context_mask, jnp.ones(x.shape[:2], bool)], 1)
        y = attention(y, keys, seen, call=call)
        x = self.after(x, y, "cross_attention", drop_path, call)
        mlp = MLP(config.mlp_dim, config.activation, compute, False, name="mlp")
        return self.after(x, mlp(self.before(x, "mlp")), "mlp", drop_path, call), None


@dataclass(frozen=True, kw_only=True)
class QFormer(TransformerConfig, Node, name="q_former"):
    """Learned queries that attend to each other and to a stream (Li et al. 2023, BLIP-2, fig. 2).

    Blocks are those of BERT; in every `cross_every`-th, from the first on, queries attend to the
    stream too. The result is a stream of `num_queries` tokens.

    With `text`, tokens of that stream stand beside the queries in self-attention, so that they say
    what to look for (Dai et al. 2023, InstructBLIP, section 2.3). They do not attend to the other
    stream, and have MLPs of their own. Then `NAME.TEXT` is a stream of these tokens. It may have
    several texts for each row of `context`; each has its own row of queries.

    >>> sizes = {"width": 768, "depth": 12, "heads": 12, "mlp_dim": 3072}
    >>> QFormer(**sizes).makes("summary")
    {'summary': ('image',)}
    >>> former = QFormer(text="question", **sizes)
    >>> former.makes("fusion")
    {'fusion': ('image', 'question'), 'fusion.question': ('image', 'question')}
    >>> [i for i in range(former.depth) if former.crosses(i)]
    [0, 2, 4, 6, 8, 10]
    """

    context: str = "image"
    """The stream that queries attend to; of any width."""
    text: str | None = None
    """The stream whose tokens join the queries; it must be `width` wide. InstructBLIP joins
    embedded words. None for queries alone."""
    num_queries: int = 32
    """Number of learned queries, and of tokens of the result."""
    activation: Literal["gelu", "gelu_tanh", "quick_gelu", "swiglu"] = "gelu"
    """As in BERT; gelu is exact."""
    norm_epsilon: float = 1e-12
    """Added to the variance in layer norms."""
    post_norm: bool = True
    """Whether a layer norm follows each residual sum, as in BERT."""
    cross_attention: Literal["none", "after_self", "before_self"] = "after_self"
    """Queries attend to the stream after they attend to each other: after_self."""
    cross_every: int = 2
    """Every how many blocks queries attend to the stream: in the first of each group of so many.
    Only with `scan` unset may it be more than 1."""
    scan: bool = False
    """Whether one compiled block runs in a loop instead of unrolled blocks."""

    def problems(self) -> Iterator[tuple[str, str]]:
        yield from super().problems()
        if self.num_queries < 1:
            yield "num_queries", f"must be at least 1, not {self.num_queries}"
        if self.cross_attention != "after_self":
            yield (
                "cross_attention",
                f"follows self-attention; use after_self, not {self.cross_attention}",
            )
        if self.text == self.context:
            yield "text", f"is {self.text!r}, as context; name another stream, or none"

    def graph_problems(
        self, name: str, widths: Mapping[str, int | None]
    ) -> Iterator[tuple[str, str]]:
        if self.text is not None and (sizes := width_misfit(widths, self.text, self.width)):
            yield "text", f"{sizes}; make them equal"

    def crosses(self, i: int) -> bool:
        return i % self.cross_every == 0

    def makes(self, name: str) -> dict[str, tuple[str, ...]]:
        if self.text is None:
            return {name: (self.context,)}
        both = (self.context, self.text)
        return {name: both, f"{name}.{self.text}": both}

    def made_if_wanted(self, name: str) -> dict[str, tuple[str, ...]]:
        return {f"{name}/{ATTENTION}": self.streams_read()}

    def module(self, compute: Compute, name: str) -> nn.Module:
        return QFormerModule(self, compute, name=name)


class QFormerModule(nn.Module):
    """A stream, and if asked for a text, to a stream of learned queries; see `QFormer`."""

    config: QFormer
    compute: Compute

    @nn.compact
    def __call__(self, inputs: Inputs, call: Call) -> dict[str, Encoded]:
        config, compute = self.config, self.compute
        context: Encoded = inputs[config.context]
        text: Encoded | None = None if config.text is None else inputs[config.text]
        rows = (context if text is None else text).tokens.shape[0]
        x, mask, call = _learned_queries(self, rows), None, call.for_rows(rows)
        if text is not None:
            x = jnp.concatenate([x, text.tokens.astype(x.dtype)], 1)
            mask = jnp.concatenate([jnp.ones((rows, config.num_queries), bool), text.mask], 1)
        x = layer_norm(compute, config.norm_epsilon, "embedding_norm")(x)
        x = transformer(
            compute.constrain(x, ("batch", "length", "embed")),
            mask,
            config,
            compute,
            call=call,
            context=context.tokens,
            context_mask=context.mask,
            block=QFormerBlock,
        )
        made = {f"{self.name}": _of_queries(x[:, : config.num_queries])}
        if text is not None:
            own = x[:, config.num_queries :]
            made[f"{self.name}.{config.text}"] = Encoded(own, text.mask, mean(own, text.mask))
        return made


class QFormerBlock(Block):
    """Self-attention of queries and text; queries also attend to the context if it crosses."""

    config: QFormer

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "batch length embed"],
        drop_path: Float[Array, ""],
        mask: TokenMask,
        call: Call,
        context: Float[Array, "contexts keys context_embed"] | None,
        context_mask: ContextMask,
        cache: Cache | None,
    ) -> tuple[Float[Array, "batch length embed"], Cache | None]:
        config = self.config
        x, _ = self.attend(x, drop_path, mask, call)
        queries, text = x[:, : config.num_queries], x[:, config.num_queries :]
        if self.crosses:
            queries, _ = self.cross(queries, drop_path, call, context, context_mask)
        queries = self.feed_forward(queries, drop_path, call)
        if config.text is None:
            return queries, None
        text = self.feed_forward(text, drop_path, call, "text_mlp")
        x = jnp.concatenate([queries, text], 1)
        return self.compute.constrain(x, ("batch", "length", "embed")), None


def _learned_queries(
    module: ResamplerModule | QFormerModule, rows: int
) -> Float[Array, "batch queries embed"]:
    """The same learned queries for each row."""
    config, compute = module.config, module.compute
    init = with_axes(nn.initializers.normal(0.02), "none", "embed")
    shape = (config.num_queries, config.width)
    queries = jnp.asarray(module.param("queries", init, shape, compute.param_dtype))
    queries = jnp.broadcast_to(queries.astype(compute.dtype), (rows, *shape))
    return compute.constrain(queries, ("batch", "length", "embed"))


def _of_queries(x: Float[Array, "batch queries embed"]) -> Encoded:
    """A stream of queries, none of which is padding, pooled to their mean."""
    mask = jnp.ones(x.shape[:2], bool)
    return Encoded(x, mask, mean(x, mask))
