"""Features of image regions that another model computed, such as an object detector."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Bool, Float

from vljax.models.compute import Call, Compute
from vljax.models.layers.basic import Linear
from vljax.models.layers.pooling import mean
from vljax.models.node import Encoded, Encoder
from vljax.models.parameters import with_axes


@dataclass(frozen=True, kw_only=True)
class RegionFeatures(Encoder, name="region_features"):
    """Feature vectors of regions in a linear map, as VisualBERT embeds them.

    Each region is `W f + b`, plus learned vectors that are the same for all regions (Li et al.
    2019, VisualBERT, section 3.2). It reads `ENTRY`, float[batch, regions, dim], and `ENTRY_mask`,
    bool[batch, regions], which the transform `decode_features` makes as `regions`.

    >>> encoder = RegionFeatures(count=36, dim=2048, width=768)
    >>> encoder.example("regions", 8)["regions"].shape, encoder.makes("regions")
    ((8, 36, 2048), {'regions': ()})
    """

    any_length: ClassVar[bool] = True

    count: int
    """Number of regions of an image, padding included; a batch may have another number."""
    dim: int
    """Size of a feature vector."""
    width: int
    """Size of a token."""
    token_types: int = 0
    """Rows of a table of token types as in VisualBERT, where all regions have the second; 0 for
    none."""
    positions: int = 0
    """Rows of a table of positions as in VisualBERT, where all regions have the first, since they
    have no order; 0 for none. The other rows of both tables are kept for export."""

    def problems(self) -> Iterator[tuple[str, str]]:
        for name in ("count", "dim", "width"):
            if getattr(self, name) < 1:
                yield name, f"must be at least 1, not {getattr(self, name)}"
        if self.token_types < 0 or self.token_types == 1:
            yield "token_types", f"must be 0 or at least 2, not {self.token_types}"
        if self.positions < 0:
            yield "positions", f"must be at least 0, not {self.positions}"

    def module(self, compute: Compute, name: str) -> nn.Module:
        return RegionFeaturesModule(self, compute, name=name)

    def roles(self, batch_size: int) -> dict[str, jax.ShapeDtypeStruct]:
        shape = (batch_size, self.count)
        return {
            "inputs": jax.ShapeDtypeStruct((*shape, self.dim), jnp.float32),
            "mask": jax.ShapeDtypeStruct(shape, jnp.bool_),
        }


class RegionFeaturesModule(nn.Module):
    """Feature vectors to tokens; see `RegionFeatures`."""

    config: RegionFeatures
    compute: Compute

    @nn.compact
    def __call__(
        self,
        features: Float[Array, "batch regions dim"],
        mask: Bool[Array, "batch regions"] | None = None,
        call: Call = Call(),
    ) -> Encoded:
        """Encodes regions; `mask` is False for padding. The pooled vector is their mean."""
        config, compute = self.config, self.compute
        mask = jnp.ones(features.shape[:2], bool) if mask is None else mask
        axes = ("none", "embed")
        x = Linear((config.width,), axes, compute, name="projection")(features)
        for name, rows, row in (
            ("token_types", config.token_types, 1),
            ("positions", config.positions, 0),
        ):
            if rows:
                init = with_axes(nn.initializers.normal(0.02), *axes)
                table = self.param(name, init, (rows, config.width), compute.param_dtype)
                x = x + table[row].astype(compute.dtype)
        x = compute.constrain(x, ("batch", "length", "embed"))
        return Encoded(x, mask, mean(x, mask))
