"""The text transformer: bidirectional (as in SigLIP and BERT) or causal (as in CLIP and GPT-2)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import ClassVar, Literal

import jax
import jax.numpy as jnp
from einops import rearrange
from flax import linen as nn
from jaxtyping import Array, Bool, Float, Int

from vljax.models.compute import Call, Compute
from vljax.models.layers.basic import layer_norm
from vljax.models.layers.pooling import pool
from vljax.models.layers.transformer import TransformerConfig, transformer
from vljax.models.node import Encoded, Encoder
from vljax.models.parameters import with_axes


@dataclass(frozen=True, kw_only=True)
class TextEncoder(Encoder):
    """Base class of encoders of token ids and a mask that is False for padding.

    Their modules call `texts_as_rows` and `looked_up`.
    """

    several = True

    vocab_size: int
    """Number of ids of the tokenizer."""
    context_length: int
    """Largest number of tokens in a sequence."""

    def problems(self) -> Iterator[tuple[str, str]]:
        for name in ("vocab_size", "context_length"):
            if getattr(self, name) < 1:
                yield name, f"must be at least 1, not {getattr(self, name)}"

    def roles(self, batch_size: int) -> dict[str, jax.ShapeDtypeStruct]:
        shape = (batch_size, self.context_length)
        return {
            "inputs": jax.ShapeDtypeStruct(shape, jnp.int32),
            "mask": jax.ShapeDtypeStruct(shape, jnp.bool_),
        }


def texts_as_rows(
    ids: Int[Array, "batch *texts length"],
    mask: Bool[Array, "batch *texts length"] | None,
    call: Call,
    context_length: int,
) -> tuple[Int[Array, "rows length"], Bool[Array, "rows length"], Call]:
    """The ids, the mask (all True if None), and the call for one row for each text.

    Several texts of an example (`[batch, texts, length]`) become `batch * texts` rows: the texts of
    the first example, then those of the second.

    >>> texts_as_rows(jnp.zeros((2, 3, 8), jnp.int32), None, Call(), 8)[1].shape
    (6, 8)

    Raises:
      ValueError: if the sequence is longer than the context.
    """
    mask = jnp.ones(ids.shape, bool) if mask is None else mask
    if ids.ndim == 3:
        call = call.repeated(ids.shape[1])
        ids, mask = (
            rearrange(x, "batch texts length -> (batch texts) length") for x in (ids, mask)
        )
    if ids.shape[1] > context_length:
        raise ValueError(f"{ids.shape[1]} tokens do not fit a context of {context_length}")
    return ids, mask, call


def looked_up(
    module: nn.Module, ids: Int[Array, "rows length"], vocab_size: int, width: int, compute: Compute
) -> Float[Array, "rows length embed"]:
    """The rows of a learned table, the parameter `embedding` of the (compact) module."""
    init = with_axes(nn.initializers.normal(0.02), "vocab", "embed")
    embedding = module.param("embedding", init, (vocab_size, width), compute.param_dtype)
    # If both fsdp and tensor split the table, XLA gathers the vocabulary on each device, and
    # then the parts of every token. Without the split by fsdp it does neither.
    table = compute.constrain(embedding, ("vocab", "embed"))
    return compute.constrain(jnp.take(table, ids, axis=0), ("batch", "length", "embed"))


@dataclass(frozen=True, kw_only=True)
class TextTransformer(TransformerConfig, TextEncoder, name="transformer"):
    """Text transformer over token ids; `presets.bert` and `presets.gpt2` have those of the papers.

    With `depth` 0, `post_norm` and `embedding_norm` it gives the embeddings of BERT, for a fusion
    such as `SingleStream`.

    >>> sizes = {"width": 512, "depth": 12, "heads": 8, "mlp_dim": 2048}
    >>> tower = TextTransformer(vocab_size=32_000, context_length=64, **sizes)
    >>> tower.roles(8)["inputs"].shape
    (8, 64)
    """

    least_depth = 0
    reads_context: ClassVar[bool] = False
    """Whether the blocks may attend to another stream."""

    causal: bool = False
    """Whether a token attends only to itself and earlier ones."""
    mask_padding: bool = True
    """Whether attention ignores padding; in SigLIP it does not."""
    pooling: Literal["first", "last", "eos", "mean", "map"] = "last"
    """last: the last position, even if it is padding; eos: the last token that is not padding."""
    embedding_norm: bool = False
    """A layer norm before the first block, as in BERT."""
    token_types: int = 0
    """Number of learned embeddings of token types, as in BERT; all tokens have the first type."""
    position_offset: int = 0
    """Rows of the table of positions before the first token's row; 2 in RoBERTa."""

    def problems(self) -> Iterator[tuple[str, str]]:
        yield from super().problems()  # of the stack
        yield from TextEncoder.problems(self)
        if self.cross_attention != "none" and not self.reads_context:
            yield (
                "cross_attention",
                "an encoder has no context; use none",
            )
        for name in ("token_types", "position_offset"):
            if getattr(self, name) < 0:
                yield name, f"must be at least 0, not {getattr(self, name)}"
        if self.causal and self.pooling == "first":
            yield (
                "pooling",
                "the first token of a causal tower attends to itself only; use last or eos",
            )

    def module(self, compute: Compute, name: str) -> nn.Module:
        return TextModule(self, compute, name=name)


class TextModule(nn.Module):
    """Token ids to tokens; see `TextTransformer` for the options."""

    config: TextTransformer
    compute: Compute

    @nn.compact
    def __call__(
        self,
        ids: Int[Array, "batch *texts length"],
        mask: Bool[Array, "batch *texts length"] | None = None,
        call: Call = Call(),
        context: Encoded | None = None,
    ) -> Encoded:
        """Encodes at most `context_length` ids in [0, vocab_size); `mask` is False for padding.

        Several texts of an example become rows, as `texts_as_rows` says. With a context,
        blocks attend to it as `cross_attention` says; without one, they leave that out.

        Raises:
          ValueError: if the sequence is longer than the context.
        """
        config, compute = self.config, self.compute
        ids, mask, call = texts_as_rows(ids, mask, call, config.context_length)
        length, offset = ids.shape[1], config.position_offset
        x = looked_up(self, ids, config.vocab_size, config.width, compute)
        init = with_axes(nn.initializers.normal(0.01), "positions", "embed")
        shape = (offset + config.context_length, config.width)
        positions = self.param("positions", init, shape, compute.param_dtype)
        x = x + positions[offset : offset + length]
        if config.token_types:
            init = with_axes(nn.initializers.normal(0.02), "none", "embed")
            shape = (config.token_types, config.width)
            x = x + self.param("token_types", init, shape, compute.param_dtype)[0]
        x = x.astype(compute.dtype)
        if config.embedding_norm:
            x = layer_norm(compute, config.norm_epsilon, "embedding_norm")(x)
        x = compute.constrain(x, ("batch", "length", "embed"))
        attended = mask if config.mask_padding else None
        if context is None:
            config = replace(config, cross_attention="none", cross_every=1)
        x = transformer(
            x,
            attended,
            config,
            compute,
            causal=config.causal,
            call=call,
            context=None if context is None else context.tokens,
            context_mask=None if context is None else context.mask,
        )
        return Encoded(x, mask, pool(config.pooling, x, mask, config, compute, call))
