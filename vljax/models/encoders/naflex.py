"""A Vision Transformer for sequences of patches, from images of any aspect ratio and size."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, Literal

import jax
import jax.numpy as jnp
from einops import rearrange
from flax import linen as nn
from jaxtyping import Array, Bool, Float, Int, UInt8

from vljax.models.compute import Call, Compute
from vljax.models.encoders.vit import ViT, ViTModule
from vljax.models.layers.inputs import normalised, resample_at, sincos_at
from vljax.models.node import Encoded


@dataclass(frozen=True, kw_only=True)
class NaFlexViT(ViT, name="naflex_vit"):
    """Vision Transformer for images that keep their aspect ratio.

    NaFlex of SigLIP 2 (Tschannen et al. 2025, arXiv 2502.14786), after NaViT (Dehghani et al. 2023,
    arXiv 2307.06304). It reads sequences of patches with padding (`Patchify` makes them), and
    resamples a square table of positions to each image's own grid. It has the parameters of `ViT`.
    The table has `image_size / patch_size` entries on each side.

    >>> sizes = {"width": 384, "depth": 12, "heads": 6, "mlp_dim": 1536}
    >>> tower = NaFlexViT(image_size=256, patch_size=16, **sizes)
    >>> tower.roles(8)["inputs"].shape
    (8, 256, 768)
    """

    any_length: ClassVar[bool] = True

    def problems(self) -> Iterator[tuple[str, str]]:
        yield from super().problems()
        if self.table_size is not None:
            yield "table_size", "image_size gives the table of positions; leave it unset"
        if self.position_filter not in ("bilinear", "bilinear_corners"):
            known = "bilinear or bilinear_corners"
            yield "position_filter", f"must be {known} here, not {self.position_filter}"
        left = self.image_size % max(1, self.patch_size)
        if left and self.patch_size < self.image_size:
            table = f"{self.image_size} pixels are not a multiple of the patch ({self.patch_size})"
            yield "image_size", f"{table}; use {self.image_size - left}"

    def module(self, compute: Compute, name: str) -> nn.Module:
        return NaFlexModule(self, compute, name=name)

    def roles(self, batch_size: int) -> dict[str, jax.ShapeDtypeStruct]:
        sequence = (batch_size, self.grid**2)
        return {
            "inputs": jax.ShapeDtypeStruct((*sequence, 3 * self.patch_size**2), jnp.uint8),
            "mask": jax.ShapeDtypeStruct(sequence, jnp.bool_),
            "positions": jax.ShapeDtypeStruct((*sequence, 2), jnp.int32),
            "grid": jax.ShapeDtypeStruct((batch_size, 2), jnp.int32),
        }


class NaFlexModule(ViTModule):
    """Patches to tokens; see `NaFlexViT` for the options."""

    @nn.compact
    def __call__(  # type: ignore[override]
        self,
        image: UInt8[Array, "batch patches values"] | Float[Array, "batch patches values"],
        mask: Bool[Array, "batch patches"] | None = None,
        call: Call = Call(),
        *,
        positions: Int[Array, "batch patches 2"],
        grid: Int[Array, "batch 2"],
    ) -> Encoded:
        """Encodes sequences of patches of any grid, even of a single row or column.

        Args:
          image: pixels of each patch by row, column and channel; uint8, or already normalised.
          mask: False for padding.
          call: how the pass is made.
          positions: row and column of each patch.
          grid: rows and columns of each image.
        """
        size = self.config.patch_size
        patches = rearrange(image, "b n (p q c) -> b n p q c", p=size, q=size)
        config, compute = self.config, self.compute
        x = self._embed(normalised(patches, config.pixel_mean, config.pixel_std, compute))
        x = x + self._positions_at(positions, grid).astype(self.compute.dtype)
        centres = (positions + 0.5) / jnp.maximum(grid, 1)[:, None]
        if mask is not None:
            centres = jnp.where(mask[..., None], centres, -1.0)
        return self._encoded(x, mask, centres, call)

    def _positions_at(
        self, positions: Int[Array, "batch patches 2"], grid: Int[Array, "batch 2"]
    ) -> Float[Array, "batch patches embed"]:
        if self.config.positions == "sincos":
            return sincos_at(positions, self.config.width)
        corners = self.config.position_filter == "bilinear_corners"
        name: Literal["bilinear", "bilinear_corners"] = (
            "bilinear_corners" if corners else "bilinear"
        )
        return resample_at(self._position_table(), positions, grid, name)
