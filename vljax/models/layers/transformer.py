"""The stack of transformer blocks that image and text towers share."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, NamedTuple, overload

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Int

from vljax.config import UserError, setting, suggest
from vljax.models.compute import Call, Compute
from vljax.models.layers.attention import Attention, KeyValue
from vljax.models.layers.basic import MLP, Dropout, LayerNorm, epsilon_problems, layer_norm
from vljax.models.parameters import with_axes

TokenMask = Bool[Array, "#batch #length length"] | Bool[Array, "#batch length"] | None
"""The tokens that each token, or all of them, may attend to; None: all."""
ContextMask = Bool[Array, "#contexts #length keys"] | Bool[Array, "#contexts keys"] | None
"""The tokens of the context that each token, or all of them, may attend to; None: all."""

SAVEABLE = ("attention_query", "attention_key", "attention_value", "attention_mixed", "mlp_hidden")
"""Names of intermediates that rematerialisation may save (`TransformerConfig.remat_names`)."""


@dataclass(frozen=True, kw_only=True)
class TransformerConfig:
    """The fields of a transformer stack, which encoders inherit."""

    least_depth: ClassVar[int] = 1
    """Smallest number of blocks; 0 for encoders, which then give embeddings."""

    width: int
    """Size of a token."""
    depth: int
    """Number of blocks."""
    heads: int
    """Attention heads of a block; they divide the width."""
    mlp_dim: int
    """Hidden size of the MLP."""
    activation: Literal["gelu", "gelu_tanh", "quick_gelu", "swiglu"] = "gelu_tanh"
    """gelu is exact; gelu_tanh and quick_gelu approximate it. swiglu has a gate, which adds half as
    many weights to the MLP."""
    layer_scale: float | None = None
    """Initial value of learned factors of each residual branch (Touvron et al. 2021, CaiT, eq. 4),
    as in DINOv2; None for no factors."""
    dropout: float = 0.0
    """Probability that a value of a residual branch is dropped in training."""
    drop_path: float = 0.0
    """Probability that a residual branch of the last block is dropped; rises linearly from 0 at the
    first block."""
    norm_epsilon: float = 1e-6
    """Added to the variance in layer norms."""
    post_norm: bool = False
    """Whether a layer norm follows each residual sum, as in BERT, instead of preceding each branch
    and following the last block."""
    cross_attention: Literal["none", "after_self", "before_self"] = "none"
    """Whether blocks attend to a context too, after or before they attend to their own tokens."""
    cross_every: int = 1
    """Every how many blocks one attends to the context: the last of each group of so many. Only
    with `scan` unset may it be more than 1."""
    scan: bool = True
    """Whether one compiled block runs in a loop (compiles fast) instead of unrolled blocks (faster
    steps)."""
    remat: Literal["none", "full", "dots", "save", "offload"] = setting("none", identity=False)
    """What the backward pass computes again to save memory. none; full: all of a block; dots: all
    but matrix products; save: all but `remat_names`; offload: as save, but keeps these in host
    memory."""
    remat_names: tuple[str, ...] = setting(lambda: SAVEABLE, identity=False)
    """Intermediates that `save` and `offload` keep; by default the inputs of matrix products."""

    def problems(self) -> Iterator[tuple[str, str]]:
        for name in ("width", "depth", "heads", "mlp_dim"):
            least = self.least_depth if name == "depth" else 1
            if getattr(self, name) < least:
                yield name, f"must be at least {least}, not {getattr(self, name)}"
        if self.width % self.heads:
            most = min(self.heads, self.width, 4096)  # a damaged file may state 2^31 heads
            near = next(h for h in range(most, 0, -1) if self.width % h == 0)
            yield "heads", f"{self.heads} heads do not divide the width {self.width}; {near} would"
        every = self.cross_every
        if every != 1:
            if self.cross_attention == "none":
                yield "cross_every", f"no block has cross_attention; set it, or use 1, not {every}"
            elif self.scan:
                yield "cross_every", "scanned blocks are all alike; unset scan, or use 1"
            elif every < 1 or self.depth % every:
                yield "cross_every", f"{every} does not divide the depth {self.depth}"
        for name in self.remat_names:
            if name not in SAVEABLE:
                yield "remat_names", f"unknown name {name!r}{suggest(name, SAVEABLE)}"
        for name in ("dropout", "drop_path"):
            if not 0 <= getattr(self, name) < 1:
                yield name, f"must be in [0, 1), not {getattr(self, name)}"
        yield from epsilon_problems(self.norm_epsilon)

    def crosses(self, i: int) -> bool:
        """Whether block `i` attends to the context: every group's last one does."""
        return self.cross_attention != "none" and (i + 1) % self.cross_every == 0


class Cache(NamedTuple):
    """What a stack keeps between the steps of decoding; the first axis of all arrays is the block.

    Rows of the batch are on the second axis: `jax.tree.map(lambda x: x[:, rows], cache)` orders
    them anew.
    """

    tokens: KeyValue
    """Of the tokens that were read."""
    context: KeyValue | None = None
    """Of the context, after the first call; only of the blocks that attend to it."""

    @property
    def length(self) -> Int[Array, "batch"]:
        """Number of tokens that were read in each row."""
        return self.tokens.length[0]


def empty_cache(config: TransformerConfig, batch: int, capacity: int, dtype: DTypeLike) -> Cache:
    """The cache before the first token, with room for `capacity` tokens.

    >>> config = TransformerConfig(width=64, depth=3, heads=4, mlp_dim=128)
    >>> empty_cache(config, 2, 10, jnp.bfloat16).tokens.key.shape
    (3, 2, 10, 4, 16)
    """
    shape = (config.depth, batch, capacity, config.heads, config.width // config.heads)
    length = jnp.zeros((config.depth, batch), jnp.int32)
    return Cache(KeyValue(jnp.zeros(shape, dtype), jnp.zeros(shape, dtype), length))


class Block(nn.Module):
    """A transformer block: attention and MLP, each added to its input.

    If it has a context, attention to it is a third branch. A layer norm precedes each branch
    (Xiong et al. 2020), or follows each sum (`post_norm`; Vaswani et al. 2017).
    """

    config: TransformerConfig
    causal: bool
    compute: Compute
    crosses: bool
    """Whether it attends to the context."""
    shared: tuple[Attention, LayerNorm] | None = None
    """The attention to the context and its norm, if other blocks use the same ones."""

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
        """Tokens, and the part of the cache that is new; `cache` has no axis of blocks here."""
        order, projected = self.config.cross_attention, None
        if self.crosses and order == "before_self":
            x, projected = self.cross(x, drop_path, call, context, context_mask, cache)
        x, tokens = self.attend(x, drop_path, mask, call, cache)
        if self.crosses and order == "after_self":
            x, projected = self.cross(x, drop_path, call, context, context_mask, cache)
        x = self.feed_forward(x, drop_path, call)
        return x, None if tokens is None else Cache(tokens, projected)

    # The branches, which blocks of fusions put together in other ways.

    def attend(
        self, x: Array, drop_path: Array, mask: TokenMask, call: Call, cache: Cache | None = None
    ) -> tuple[Array, KeyValue | None]:
        """The tokens after self-attention, and with a cache their keys and values."""
        config = self.config
        attention = Attention(
            config.width, config.heads, self.compute, self.causal, name="attention"
        )
        y = self.before(x, "attention")
        if cache is None:
            y = attention(y, mask=mask, call=call)
            return self.after(x, y, "attention", drop_path, call), None
        y, tokens = attention(y, mask=mask, cache=cache.tokens, call=call)
        return self.after(x, y, "attention", drop_path, call), tokens

    def cross(
        self,
        x: Array,
        drop_path: Array,
        call: Call,
        context: Array | None,
        context_mask: ContextMask,
        cache: Cache | None = None,
    ) -> tuple[Array, KeyValue | None]:
        """The tokens after attention to the context, and its keys and values if they are new."""
        config, projected = self.config, None
        if self.shared is None:
            attention = Attention(config.width, config.heads, self.compute, name="cross_attention")
        else:
            attention, _ = self.shared
        y = self.before(x, "cross_attention")
        if cache is not None and cache.context is not None:
            y = attention(y, cache.context, context_mask, call=call)
        else:
            assert context is not None  # `transformer` saw to it
            if cache is None:
                y = attention(y, context, context_mask, call=call)
            else:
                projected = attention.project(context)
                y = attention(y, projected, context_mask, call=call)
        return self.after(x, y, "cross_attention", drop_path, call), projected

    def feed_forward(self, x: Array, drop_path: Array, call: Call, name: str = "mlp") -> Array:
        """The tokens after the MLP, whose parameters are stored under `name`."""
        mlp = MLP(self.config.mlp_dim, self.config.activation, self.compute, name=name)
        return self.after(x, mlp(self.before(x, name)), name, drop_path, call)

    def before(self, x: Array, name: str) -> Array:
        """The input of a branch."""
        return x if self.config.post_norm else self._norm(x, name)

    def after(self, x: Array, branch: Array, name: str, drop_path: Array, call: Call) -> Array:
        """The tokens with what a branch made."""
        config = self.config
        if config.layer_scale is not None:
            branch = branch * self._scale(f"{name}_scale", config.layer_scale, x.dtype)
        branch = self.dropped(branch, name, drop_path, call)
        y = self.compute.constrain(x + branch, ("batch", "length", "embed"))
        return self._norm(y, name) if config.post_norm else y

    def dropped(self, branch: Array, name: str, drop_path: Array, call: Call) -> Array:
        """What dropout leaves of a branch."""
        config = self.config
        if config.dropout:
            branch = Dropout(name=f"{name}_dropout")(branch, config.dropout, call)
        if config.drop_path:
            drop = Dropout(whole_examples=True, name=f"{name}_drop_path")
            branch = drop(branch, drop_path, call)
        return branch

    def _norm(self, x: Array, name: str) -> Array:
        if name == "cross_attention" and self.shared is not None:
            return self.shared[1](x)
        return layer_norm(self.compute, self.config.norm_epsilon, f"{name}_norm")(x)

    def _scale(self, name: str, initial: float, dtype: DTypeLike) -> Float[Array, "embed"]:
        init = with_axes(nn.initializers.constant(initial), "embed")
        shape = (self.config.width,)
        factors: Array = self.param(name, init, shape, self.compute.param_dtype)
        return factors.astype(dtype)


class Unrolled(nn.Module):
    """Blocks one after the other, with parameters under `0`, `1`, ..."""

    config: TransformerConfig
    causal: bool
    compute: Compute
    block: type[Block]

    @nn.compact
    def __call__(
        self,
        x: Array,
        drop_path: Float[Array, "layers"],
        mask: TokenMask,
        call: Call,
        context: Array | None,
        context_mask: ContextMask,
        cache: Cache | None,
    ) -> tuple[Array, Cache | None]:
        config = self.config
        block = rematerialised(config, self.block)
        new: list[Cache] = []
        for i in range(config.depth):
            crosses = config.crosses(i)
            own = None
            if cache is not None:
                stored = _at(cache.context, i // config.cross_every) if crosses else None
                own = Cache(_at(cache.tokens, i), stored)
            fields = (config, self.causal, self.compute, crosses)
            rest = (mask, call, context, context_mask, own)
            x, made = block(*fields, name=str(i))(x, drop_path[i], *rest)
            if made is not None:
                new.append(made)
        if cache is None:
            return x, None
        contexts = [made.context for made in new if made.context is not None]
        tokens = _stacked([made.tokens for made in new])
        return x, Cache(tokens, _stacked(contexts) if contexts else None)


def _at(stack: Any, i: int) -> Any:
    return jax.tree.map(lambda x: x[i], stack)


def _stacked(trees: list[KeyValue]) -> KeyValue:
    stack: KeyValue = jax.tree.map(lambda *x: jnp.stack(x), *trees)
    return stack


def rematerialised(config: TransformerConfig, kind: type[Block] = Block) -> Callable[..., Block]:
    """A kind of block with the rematerialisation that `config.remat` asks for."""
    if config.remat == "none":
        return kind
    names = list(config.remat_names)
    policies = jax.checkpoint_policies
    policy = {
        "full": lambda: policies.nothing_saveable,
        "dots": lambda: policies.dots_saveable,
        "save": lambda: policies.save_only_these_names(*names),
        "offload": lambda: policies.save_and_offload_only_these_names(
            names_which_can_be_saved=[],
            names_which_can_be_offloaded=names,
            offload_src="device",
            offload_dst="pinned_host",
        ),
    }[config.remat]()
    # Without prevent_cse, XLA would merge recomputation with the forward pass in unrolled blocks,
    # and save no memory. In a loop it cannot merge them.
    block: Callable[..., Block] = nn.remat(kind, policy=policy, prevent_cse=not config.scan)
    return block


@overload
def transformer(
    x: Array,
    mask: TokenMask,
    config: TransformerConfig,
    compute: Compute,
    *,
    causal: bool = False,
    call: Call = Call(),
    context: Array | None = None,
    context_mask: ContextMask = None,
    cache: None = None,
    block: type[Block] = Block,
) -> Array: ...


@overload
def transformer(
    x: Array,
    mask: TokenMask,
    config: TransformerConfig,
    compute: Compute,
    *,
    causal: bool = False,
    call: Call = Call(),
    context: Array | None = None,
    context_mask: ContextMask = None,
    cache: Cache,
    block: type[Block] = Block,
) -> tuple[Array, Cache]: ...


def transformer(
    x: Float[Array, "batch length embed"],
    mask: TokenMask,
    config: TransformerConfig,
    compute: Compute,
    *,
    causal: bool = False,
    call: Call = Call(),
    context: Float[Array, "contexts keys context_embed"] | None = None,
    context_mask: ContextMask = None,
    cache: Cache | None = None,
    block: type[Block] = Block,
) -> Float[Array, "batch length embed"] | tuple[Array, Cache]:
    """Tokens after the blocks and the final norm (with `post_norm` there is no final norm).

    With `depth` 0 there is only the final norm; with `post_norm` too, the tokens stay as they are.

    Call it inside a compact module: it adds parameters there, under `blocks/...` and `norm/...`.

    Args:
      x: tokens with their positions added.
      mask: the tokens that may be attended to, by all tokens or by each; None for all. With a
        cache: which tokens are not padding, shape (batch, length); padding comes last.
      causal: whether a token attends only to itself and earlier ones.
      call: how the pass is made.
      context: tokens of another sequence, for blocks with `cross_attention`; their width may be
        another. With a cache, only the first call reads it.
      context_mask: the tokens of the context that may be attended to; None for all.
      cache: of earlier tokens; `empty_cache` makes the first. It must have room for `x`.
      block: the kind of block; a fusion may have one of its own.

    Returns:
      The tokens; with a cache, the tokens and the new cache.

    Raises:
      UserError: if there is a context but no `cross_attention`, or the other way around.

    >>> config = TransformerConfig(width=8, depth=2, heads=2, mlp_dim=16)
    >>> class Blocks(nn.Module):
    ...     @nn.compact
    ...     def __call__(self, x, cache=None):
    ...         return transformer(x, None, config, Compute(), causal=True, cache=cache)
    >>> variables = Blocks().init(jax.random.key(0), jnp.ones((1, 3, 8)))
    >>> Blocks().apply(variables, jnp.ones((1, 3, 8))).shape
    (1, 3, 8)
    >>> cache = empty_cache(config, 1, 10, jnp.float32)
    >>> tokens, cache = Blocks().apply(variables, jnp.ones((1, 2, 8)), cache)
    >>> cache.length
    Array([2], dtype=int32)
    """
    known = cache is not None and cache.context is not None
    if config.cross_attention == "none" and (known or context is not None):
        raise UserError("cross_attention: none, but there is a context; use after_self")
    if config.cross_attention != "none" and not known and context is None:
        raise UserError(
            f"cross_attention: {config.cross_attention} needs a context; give one, or use none"
        )
    rates = jnp.linspace(0, config.drop_path, config.depth, dtype=jnp.float32)
    fields = (config, causal, compute)
    if config.scan and config.depth:
        scan = nn.scan(
            lambda block, x, rate, cache: block(x, rate, mask, call, context, context_mask, cache),
            variable_axes={"params": 0, "intermediates": 0},
            split_rngs={"params": True, "dropout": True},
            length=config.depth,
            metadata_params={nn.PARTITION_NAME: "layers"},
        )
        crosses = config.cross_attention != "none"
        scanned = rematerialised(config, block)(*fields, crosses, name="blocks")
        x, new = scan(scanned, x, rates, cache)
    else:
        rest = (mask, call, context, context_mask, cache)
        x, new = Unrolled(*fields, block, name="blocks")(x, rates, *rest)
    if not config.post_norm:
        x = layer_norm(compute, config.norm_epsilon, "norm")(x)
    if cache is None:
        return x
    # What is stored of the context goes around the blocks: as an output it would be copied.
    return x, new._replace(context=cache.context) if known else new
