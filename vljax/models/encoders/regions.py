"""Regions of an image as tokens: from feature vectors and boxes of an object detector."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Bool, Float

from vljax.models.compute import Call, Compute
from vljax.models.layers.basic import Linear, layer_norm
from vljax.models.layers.pooling import pool
from vljax.models.layers.transformer import TransformerConfig, transformer
from vljax.models.node import Encoded, Encoder


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
