"""Fusion by gated cross-attention: blocks that attend to an image between those of a text stack."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import jax.numpy as jnp
from flax import linen as nn
from flax.linen import meta
from jaxtyping import Array, Float

from vljax.models.compute import Call, Compute
from vljax.models.layers.attention import Attention, ContextMask, KeyValue
from vljax.models.layers.basic import MLP, NORMS, Activation
from vljax.models.layers.pooling import pool
from vljax.models.layers.transformer import Block, Cache, TransformerConfig, transformer
from vljax.models.node import ATTENTION, Encoded, Inputs, Node, width_misfit
from vljax.models.numerics import widened
from vljax.models.parameters import unroll, with_axes


@dataclass(frozen=True, kw_only=True)
class GatedCrossAttention(TransformerConfig, Node, name="gated_cross_attention"):
    """A text stack with gated blocks that attend to an image (Alayrac et al. 2022, Flamingo).

    Before every `cross_every`-th block of self-attention and MLP stands a gated block (fig. 4):
    `x += tanh(a) * attention(norm(x), context)`, then `x += tanh(b) * MLP(norm(x))`. The gates a
    and b are parameters that begin at 0, so that the text stack computes at first what it computes
    without an image. Blocks of self-attention have the parameters of a text stack, under the same
    names.

    The result is a stream with the tokens of `queries`. `NAME/gates` are tanh(a) and tanh(b) of
    each gated block, shape [gated blocks, 2], or [gated blocks, 2, width] for `gate` vector.

    >>> sizes = {"width": 768, "depth": 12, "heads": 12, "mlp_dim": 3072}
    >>> fusion = GatedCrossAttention(queries="question", cross_every=4, scan=False, **sizes)
    >>> [i for i in range(fusion.depth) if fusion.crosses(i)]
    [0, 4, 8]
    >>> list(fusion.made_if_wanted("fusion"))
    ['fusion/attention', 'fusion/gates']
    """

    queries: str = "text"
    """The stream whose tokens attend; it must be `width` wide. It may have several texts for each
    row of `context`."""
    context: str = "image"
    """The stream that they attend to; of any width. Where it has no token, gated attention adds
    nothing."""
    cross_attention: Literal["none", "after_self", "before_self"] = "before_self"
    """Gated blocks stand before those of self-attention: before_self."""
    cross_every: int = 1
    """Every how many blocks a gated one stands before one: before the first of each group of so
    many. Only with `scan` unset may it be more than 1."""
    causal: bool = False
    """Whether self-attention of a token sees only itself and earlier ones, as in Flamingo."""
    gate: Literal["scalar", "vector"] = "scalar"
    """Whether a gate is one number, or one for each value of a token, as Idefics may have it."""
    cross_activation: Activation = "squared_relu"
    """Of the MLPs of gated blocks; swiglu in Idefics."""
    cross_norm: Literal["layer", "rms"] = "layer"
    """The norm in gated blocks; rms in Idefics."""
    query_key_norm: bool = False
    """Whether `cross_norm` is applied to queries and keys of gated attention too, as in Idefics."""
    pooling: Literal["first", "last", "eos", "mean", "map"] = "mean"
    """How the resulting tokens become one vector."""

    def problems(self) -> Iterator[tuple[str, str]]:
        yield from super().problems()
        if self.cross_attention != "before_self":
            yield (
                "cross_attention",
                f"gated blocks stand before self-attention; use before_self,"
                f" not {self.cross_attention}",
            )
        if self.queries == self.context:
            yield "context", f"is {self.context!r}, as queries; name another stream"
        if self.causal and self.pooling == "first":
            yield (
                "pooling",
                "the first token of a causal stack attends to itself only; use last or eos",
            )

    def graph_problems(
        self, name: str, widths: Mapping[str, int | None]
    ) -> Iterator[tuple[str, str]]:
        if sizes := width_misfit(widths, self.queries, self.width):
            yield "queries", f"{sizes}; make them equal"

    def crosses(self, i: int) -> bool:
        return i % self.cross_every == 0

    def makes(self, name: str) -> dict[str, tuple[str, ...]]:
        return {name: (self.queries, self.context)}

    def made_if_wanted(self, name: str) -> dict[str, tuple[str, ...]]:
        both = (self.queries, self.context)
        return {f"{name}/{ATTENTION}": both, f"{name}/gates": both}

    def shared_outputs(self, name: str) -> tuple[str, ...]:
        return (f"{name}/gates",)

    def module(self, compute: Compute, name: str) -> nn.Module:
        return GatedCrossAttentionModule(self, compute, name=name)


class GatedCrossAttentionModule(nn.Module):
    """Two streams to one, and the gates; see `GatedCrossAttention`."""

    config: GatedCrossAttention
    compute: Compute

    @nn.compact
    def __call__(self, inputs: Inputs, call: Call) -> dict[str, Any]:
        config, compute = self.config, self.compute
        queries, context = inputs[config.queries], inputs[config.context]
        tokens = transformer(
            queries.tokens,
            queries.mask,
            config,
            compute,
            causal=config.causal,
            call=call.for_rows(queries.tokens.shape[0]),
            context=context.tokens,
            context_mask=context.mask,
            block=GatedBlock,
        )
        pooled = pool(config.pooling, tokens, queries.mask, config, compute)
        return {
            f"{self.name}": Encoded(tokens, queries.mask, pooled, queries.positions),
            f"{self.name}/gates": self._gates(),
        }

    def _gates(self) -> Float[Array, "blocks 2 ..."]:
        blocks = unroll(meta.unbox(self.variables["params"]))["blocks"]
        gates = [
            jnp.stack([_opened(blocks[str(i)][f"{branch}_gate"]) for branch in _BRANCHES])
            for i in range(self.config.depth)
            if self.config.crosses(i)
        ]
        return jnp.stack(gates)


_BRANCHES = ("cross_attention", "cross_mlp")


def _opened(gate: Array) -> Array:
    return jnp.tanh(widened(gate))


class GatedBlock(Block):
    """A block of self-attention and MLP, before it a gated one if it crosses."""

    config: GatedCrossAttention

    def cross(
        self,
        x: Array,
        drop_path: Array,
        call: Call,
        context: Array | None,
        context_mask: ContextMask,
        cache: Cache | None = None,
    ) -> tuple[Array, KeyValue | None]:
        config, compute = self.config, self.compute
        assert context is not None  # `transformer` saw to it
        attention = Attention(
            config.width,
            config.heads,
            compute,
            use_bias=False,
            query_key_norm=config.cross_norm if config.query_key_norm else "none",
            epsilon=config.norm_epsilon,
            name="cross_attention",
        )
        y = attention(self._normed(x, "cross_attention"), context, context_mask, call=call)
        if context_mask is not None:
            seen = jnp.any(context_mask, axis=-1)
            seen = jnp.repeat(seen, x.shape[0] // seen.shape[0], axis=0)
            y = jnp.where(seen[:, None, None], y, jnp.zeros((), y.dtype))
        x = self._gated(x, y, "cross_attention", drop_path, call)
        mlp = MLP(config.mlp_dim, config.cross_activation, compute, False, name="cross_mlp")
        y = mlp(self._normed(x, "cross_mlp"))
        return self._gated(x, y, "cross_mlp", drop_path, call), None

    def _normed(self, x: Array, name: str) -> Array:
        config = self.config
        norm = NORMS[config.cross_norm](self.compute, config.norm_epsilon, name=f"{name}_norm")
        return norm(x)

    def _gated(self, x: Array, branch: Array, name: str, drop_path: Array, call: Call) -> Array:
        vector = self.config.gate == "vector"
        shape, axes = ((self.config.width,), ("embed",)) if vector else ((), ())
        zeros = with_axes(nn.initializers.zeros_init(), *axes)
        gate = self.param(f"{name}_gate", zeros, shape, self.compute.param_dtype)
        branch = self.dropped(branch, name, drop_path, call)
        y = x + _opened(jnp.asarray(gate)).astype(x.dtype) * branch
        return self.compute.constrain(y, ("batch", "length", "embed"))
