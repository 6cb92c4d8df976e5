"""The stack of transformer blocks that image and text towers share."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float

from vljax.config import setting, suggest
from vljax.models.compute import Compute
from vljax.models.layers.attention import Attention
from vljax.models.layers.basic import MLP, Dropout, ExampleIndex, layer_norm
from vljax.models.parameters import with_axes

SAVEABLE = ("attention_query", "attention_key", "attention_value", "attention_mixed", "mlp_hidden")
"""Names of intermediates that rematerialisation may save (`TransformerConfig.remat_names`)."""


@dataclass(frozen=True, kw_only=True)
class TransformerConfig:
    """The fields of a transformer stack, which encoders inherit."""

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
            if getattr(self, name) < 1:
                yield name, f"must be at least 1, not {getattr(self, name)}"
        if self.width % self.heads:
            near = next(h for h in range(self.heads, 0, -1) if self.width % h == 0)
            yield "heads", f"{self.heads} heads do not divide the width {self.width}; {near} would"
        for name in self.remat_names:
            if name not in SAVEABLE:
                yield "remat_names", f"unknown name {name!r}{suggest(name, SAVEABLE)}"
        for name in ("dropout", "drop_path"):
            if not 0 <= getattr(self, name) < 1:
                yield name, f"must be in [0, 1), not {getattr(self, name)}"


class Block(nn.Module):
    """A transformer block: attention and MLP, each added to its input.

    A layer norm precedes each of them (Xiong et al. 2020), or follows each sum (`post_norm`;
    Vaswani et al. 2017).
    """

    config: TransformerConfig
    causal: bool
    compute: Compute
    train: bool

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "batch length embed"],
        drop_path: Float[Array, ""],
        mask: Bool[Array, "batch length"] | None,
        example_index: ExampleIndex,
    ) -> Float[Array, "batch length embed"]:
        config, compute = self.config, self.compute

        def residual(x: Array, branch: Array, name: str) -> Array:
            if config.layer_scale is not None:
                branch = branch * self._scale(f"{name}_scale", config.layer_scale, x.dtype)
            if self.train and config.dropout:
                branch = Dropout(name=f"{name}_dropout")(branch, config.dropout, example_index)
            if self.train and config.drop_path:
                drop = Dropout(whole_examples=True, name=f"{name}_drop_path")
                branch = drop(branch, drop_path, example_index)
            return compute.constrain(x + branch, ("batch", "length", "embed"))

        attention = Attention(config.heads, compute, self.causal, name="attention")
        mlp = MLP(config.mlp_dim, config.activation, compute, name="mlp")
        attention_norm = layer_norm(compute, config.norm_epsilon, "attention_norm")
        mlp_norm = layer_norm(compute, config.norm_epsilon, "mlp_norm")
        if config.post_norm:
            x = attention_norm(residual(x, attention(x, mask=mask), "attention"))
            return mlp_norm(residual(x, mlp(x), "mlp"))
        x = residual(x, attention(attention_norm(x), mask=mask), "attention")
        return residual(x, mlp(mlp_norm(x)), "mlp")

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
    train: bool

    @nn.compact
    def __call__(
        self,
        x: Array,
        drop_path: Float[Array, "layers"],
        mask: Array | None,
        example_index: ExampleIndex,
    ) -> Array:
        block = rematerialised(self.config)
        fields = (self.config, self.causal, self.compute, self.train)
        for i in range(self.config.depth):
            x = block(*fields, name=str(i))(x, drop_path[i], mask, example_index)
        return x


def rematerialised(config: TransformerConfig) -> Callable[..., Block]:
    """`Block` with the rematerialisation that `config.remat` asks for."""
    if config.remat == "none":
        return Block
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
    block: Callable[..., Block] = nn.remat(Block, policy=policy, prevent_cse=not config.scan)
    return block


def transformer(
    x: Float[Array, "batch length embed"],
    mask: Bool[Array, "batch length"] | None,
    config: TransformerConfig,
    compute: Compute,
    *,
    causal: bool = False,
    train: bool,
    example_index: ExampleIndex = None,
) -> Float[Array, "batch length embed"]:
    """Tokens after the blocks and the final norm (with `post_norm` there is no final norm).

    Call it inside a compact module: it adds parameters there, under `blocks/...` and `norm/...`.

    Args:
      x: tokens with their positions added.
      mask: the tokens that may be attended to; None for all.
      causal: whether a token attends only to itself and earlier ones.
      train: whether dropout is applied.
      example_index: index of each example in the global batch, for dropout; see `Dropout`.
    """
    fields = (config, causal, compute, train)
    rates = jnp.linspace(0, config.drop_path, config.depth, dtype=jnp.float32)
    if config.scan:
        scan = nn.scan(
            lambda block, x, rate: (block(x, rate, mask, example_index), None),
            variable_axes={"params": 0},
            split_rngs={"params": True, "dropout": True},
            length=config.depth,
            metadata_params={nn.PARTITION_NAME: "layers"},
        )
        x, _ = scan(rematerialised(config)(*fields, name="blocks"), x, rates)
    else:
        x = Unrolled(*fields, name="blocks")(x, rates, mask, example_index)
    return x if config.post_norm else layer_norm(compute, config.norm_epsilon, "norm")(x)
