"""Multi-head attention."""

from __future__ import annotations

from flax import linen as nn
from jax.ad_checkpoint import checkpoint_name
from jaxtyping import Array, Bool, Float

from vljax.models.compute import Compute
from vljax.models.layers.basic import Linear


class Attention(nn.Module):
    """Multi-head attention of `x` to itself or to a context (Vaswani et al. 2017, section 3.2.2).

    `compute.kernels.attention` mixes the values; see
    `kernels.attention.reference.reference_attention` for its formula.
    """

    heads: int
    compute: Compute
    causal: bool = False
    """Whether a token attends only to itself and earlier ones."""

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "batch queries embed"],
        context: Float[Array, "batch keys context_embed"] | None = None,
        mask: Bool[Array, "batch keys"] | None = None,
    ) -> Float[Array, "batch queries embed"]:
        """`mask` marks the keys that may be attended to; `context` is `x` if None."""
        context = x if context is None else context
        width = x.shape[-1]
        inward = ((self.heads, width // self.heads), ("embed", "heads", "head_dim"), self.compute)
        names = ("batch", "length", "heads", "head_dim")

        def project(name: str, tokens: Array) -> Array:
            y = self.compute.constrain(Linear(*inward, name=name)(tokens), names)
            return checkpoint_name(y, f"attention_{name}")

        query, key = project("query", x), project("key", context)
        y = self.compute.kernels.attention(query, key, project("value", context), mask, self.causal)
        outward = Linear((width,), ("heads", "head_dim", "embed"), self.compute, 2, name="output")
        return outward(checkpoint_name(y, "attention_mixed"))
