"""Regions of an image as tokens: from what another model computed, such as an object detector.

`RegionEncoder` reads features and boxes and has blocks (LXMERT). `RegionFeatures` reads features
only, and embeds them for a fusion (VisualBERT).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, Literal

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Bool, Float

from vljax.models.compute import Call, Compute
from vljax.models.layers.basic import Linear, layer_norm
from vljax.models.layers.pooling import mean, pool
from vljax.models.layers.transformer import TransformerConfig, transformer
from vljax.models.node import Encoded, Encoder
from vljax.models.parameters import with_axes


@dataclass(frozen=True, kw_only=True)
class RegionEncoder(TransformerConfig, Encoder, name="regions"):
    """Encodes regions of an image, given as feature vectors and boxes, as LXMERT does.

    A token is (norm(W feature + b) + norm(V box + c)) / 2 (Tan & Bansal 2019, section 2.1). Then
    follow the blocks. It reads the entries `ENTRY` (features), `ENTRY_boxes` (left, top, right,
    bottom in 0..1 of the image) and `ENTRY_mask`, which the transform `decode_features` makes.

    >>> sizes = {"width": 768, "depth": 5, "heads": 12, "mlp_dim": 3072}
    >>> example = RegionEncoder(regions=36, feature_dim=2048, **sizes).example("regions", 8)
    >>> {name: spec.shape for name, spec in example.items()}
    {'regions': (8, 36, 2048), 'regions_boxes': (8, 36, 4), 'regions_mask': (8, 36)}
    """

    regions: int = 36
    """Largest number of regions of an image."""
    feature_dim: int = 2048
    """Size of the feature vector of a region."""
    pooling: Literal["mean", "map"] = "mean"
    """mean: over the regions; map: a learned query attends to them."""

    def problems(self) -> Iterator[tuple[str, str]]:
        yield from super().problems()
        if self.cross_attention != "none":
            yield "cross_attention", "an encoder has no context; use none"
        for name in ("regions", "feature_dim"):
            if getattr(self, name) < 1:
                yield name, f"must be at least 1, not {getattr(self, name)}"

    def module(self, compute: Compute, name: str) -> nn.Module:
        return RegionModule(self, compute, name=name)

    def roles(self, batch_size: int) -> dict[str, jax.ShapeDtypeStruct]:
        shape = (batch_size, self.regions)
        return {
            "inputs": jax.ShapeDtypeStruct((*shape, self.feature_dim), jnp.float32),
            "boxes": jax.ShapeDtypeStruct((*shape, 4), jnp.float32),
            "mask": jax.ShapeDtypeStruct(shape, jnp.bool_),
        }


class RegionModule(nn.Module):
    """Features and boxes to tokens; see `RegionEncoder`."""

    config: RegionEncoder
    compute: Compute

    @nn.compact
    def __call__(
        self,
        features: Float[Array, "batch regions features"],
        mask: Bool[Array, "batch regions"] | None = None,
        call: Call = Call(),
        *,
        boxes: Float[Array, "batch regions 4"],
    ) -> Encoded:
        """Encodes regions; `mask` is False for padding. Their positions are the boxes' centres."""
        config, compute = self.config, self.compute
        mask = jnp.ones(features.shape[:2], bool) if mask is None else mask

        def embedded(x: Array, name: str) -> Array:
            linear = Linear((config.width,), ("none", "embed"), compute, name=name)
            return layer_norm(compute, config.norm_epsilon, f"{name}_norm")(linear(x))

        x = (embedded(features, "features") + embedded(boxes, "boxes")) / 2
        x = compute.constrain(x, ("batch", "length", "embed"))
        x = transformer(x, mask, config, compute, call=call)
        left, top, right, bottom = jnp.moveaxis(boxes, -1, 0)
        centres = jnp.stack([(top + bottom) / 2, (left + right) / 2], axis=-1)
        positions = jnp.where(mask[..., None], centres, -1.0)
        return Encoded(x, mask, pool(config.pooling, x, mask, config, compute, call), positions)


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
