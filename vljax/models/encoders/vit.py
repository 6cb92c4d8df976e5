"""The Vision Transformer (Dosovitskiy et al. 2021)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import jax
import jax.numpy as jnp
from einops import rearrange
from flax import linen as nn
from jaxtyping import Array, Bool, Float, UInt8

from vljax.models.compute import Call, Compute
from vljax.models.layers.basic import layer_norm
from vljax.models.layers.inputs import (
    PositionFilter,
    centres,
    normalised,
    patchify,
    pixel_problems,
    resample_positions,
    sincos_2d,
)
from vljax.models.layers.pooling import pool
from vljax.models.layers.transformer import TransformerConfig, transformer
from vljax.models.node import Encoded, Encoder
from vljax.models.parameters import with_axes


@dataclass(frozen=True, kw_only=True)
class ViT(TransformerConfig, Encoder, name="vit"):
    """Vision Transformer: encodes an image as a sequence of patches.

    With `depth` 0 and `post_norm` it gives the embeddings of the patches with their positions, for
    a fusion such as `SingleStream`.

    >>> tower = ViT(width=384, depth=12, heads=6, mlp_dim=1536, image_size=224, patch_size=16)
    >>> tower.grid
    14
    """

    least_depth = 0

    image_size: int
    """Height and width of training images, in pixels."""
    patch_size: int
    """Height and width of a patch, in pixels."""
    pooling: Literal["cls", "mean", "map"] = "map"
    """cls: a learned first token; mean: over the patches; map: a learned query attends to all
    tokens."""
    cls_position: bool = False
    """Whether the class token has a learned position too, as in the first ViT and CLIP."""
    positions: Literal["learned", "sincos"] = "learned"
    """Learned positions are resampled for images of another size."""
    position_filter: PositionFilter = "bilinear"
    """How they are resampled: bilinear and bicubic are antialiased, bicubic_pytorch (DINOv2) is
    not, nor is bilinear_corners (ViLT), which keeps the corners of the table at the corners."""
    table_size: int | None = None
    """Height and width, in pixels, of the images that the table of positions is for; None for
    `image_size`. DINOv2 has a larger table than its images need."""
    registers: int = 0
    """Number of learned tokens without a patch (Darcet et al. 2024)."""
    mask_token: bool = False
    """Whether to keep the vector that replaces hidden patches in DINOv2's training. The tower does
    not use it; it is there so that weights of such models can be exported again."""
    input_norm: bool = False
    """A layer norm before the first block, as in CLIP."""
    patch_bias: bool = True
    """A bias in the patch embedding; CLIP has none."""
    pixel_mean: tuple[float, float, float] = (0.5, 0.5, 0.5)
    """Mean of pixels in [0, 1] by channel; subtracted on the device."""
    pixel_std: tuple[float, float, float] = (0.5, 0.5, 0.5)
    """Standard deviation of pixels by channel; they are divided by it."""

    def problems(self) -> Iterator[tuple[str, str]]:
        yield from super().problems()
        if self.cross_attention != "none":
            yield (
                "cross_attention",
                "an encoder has no context; use none",
            )
        if self.patch_size < 1:
            yield "patch_size", f"must be at least 1, not {self.patch_size}"
        if self.patch_size > self.image_size:
            size = f"a patch of {self.patch_size} pixels is larger than the image"
            yield (
                "patch_size",
                f"{size} ({self.image_size} pixels); make it at most {self.image_size}",
            )
        if self.positions == "sincos" and (self.width % 4 or self.width < 8):
            yield "positions", f"sincos needs a width of 8, 12, 16, ..., not {self.width}"
        if self.cls_position and self.pooling != "cls":
            yield "cls_position", f"there is no class token with pooling {self.pooling!r}"
        if self.table_size is not None and self.table_size < self.patch_size:
            yield "table_size", f"must be at least a patch ({self.patch_size} pixels)"
        if self.registers < 0:
            yield "registers", f"must be at least 0, not {self.registers}"
        yield from pixel_problems(self.pixel_std)

    def notes(self) -> Iterator[tuple[str, str]]:
        left = self.image_size % self.patch_size
        if left:
            size = f"{self.image_size} pixels are not a multiple of the patch ({self.patch_size})"
            yield "image_size", f"{size}: {left} pixels at the bottom and right edges are not used"

    @property
    def grid(self) -> int:
        """Patches along a side."""
        return self.image_size // self.patch_size

    @property
    def table_grid(self) -> int:
        """Entries of the table of positions along a side."""
        return (self.table_size or self.image_size) // self.patch_size

    def module(self, compute: Compute, name: str) -> nn.Module:
        return ViTModule(self, compute, name=name)

    def preprocessing(self) -> dict[str, list[float]]:
        return {"mean": list(self.pixel_mean), "std": list(self.pixel_std)}

    def roles(self, batch_size: int) -> dict[str, jax.ShapeDtypeStruct]:
        shape = (batch_size, self.image_size, self.image_size, 3)
        return {"inputs": jax.ShapeDtypeStruct(shape, jnp.uint8)}


class ViTModule(nn.Module):
    """Images to tokens; see `ViT` for the options."""

    config: ViT
    compute: Compute

    @nn.compact
    def __call__(
        self,
        image: UInt8[Array, "batch height width 3"] | Float[Array, "batch height width 3"],
        mask: Bool[Array, "batch patches"] | None = None,
        call: Call = Call(),
    ) -> Encoded:
        """Encodes images: uint8, or already normalised floats; `mask` is False for padding."""
        config, compute = self.config, self.compute
        pixels = normalised(image, config.pixel_mean, config.pixel_std, compute)
        patches = patchify(pixels, config.patch_size)
        rows, columns = patches.shape[1:3]
        x = rearrange(self._embed(patches), "b r c d -> b (r c) d")
        x = x + self._positions(rows, columns).astype(compute.dtype)
        seen = jnp.broadcast_to(centres(rows, columns), (*x.shape[:2], 2))
        return self._encoded(x, mask, seen, call)

    def _encoded(
        self,
        x: Float[Array, "batch patches embed"],
        mask: Bool[Array, "batch patches"] | None,
        centres: Float[Array, "batch patches 2"],
        call: Call,
    ) -> Encoded:
        """Encodes embedded patches; `centres` are their positions (`Encoded.positions`)."""
        config, compute = self.config, self.compute
        prefix = self._prefix()
        extra = prefix.shape[0]
        patch_mask = jnp.ones(x.shape[:2], bool) if mask is None else mask
        if extra:
            prefix = jnp.broadcast_to(prefix, (x.shape[0], *prefix.shape))
            x = jnp.concatenate([prefix, x], axis=1)
        x = compute.constrain(x, ("batch", "length", "embed"))
        if config.input_norm:
            x = layer_norm(compute, config.norm_epsilon, "input_norm")(x)

        full_mask = jnp.pad(patch_mask, ((0, 0), (extra, 0)), constant_values=True)
        attended = None if mask is None else full_mask
        tokens = transformer(x, attended, config, compute, call=call)

        pooled_mask = jnp.pad(patch_mask, ((0, 0), (extra, 0)), constant_values=False)
        pooled = pool(config.pooling, tokens, pooled_mask, config, compute, call)
        positions = jnp.pad(centres, ((0, 0), (extra, 0), (0, 0)), constant_values=-1.0)
        return Encoded(tokens, full_mask, pooled, positions)

    def _embed(
        self, patches: Float[Array, "*patches p q channels"]
    ) -> Float[Array, "*patches embed"]:
        """The patch embedding: a linear map of a patch's pixels, stored as a convolution kernel."""
        config, compute = self.config, self.compute
        shape = (config.patch_size, config.patch_size, 3, config.width)
        lecun = nn.initializers.variance_scaling(
            1.0, "fan_in", "truncated_normal", in_axis=(0, 1, 2), out_axis=3
        )
        init = with_axes(lecun, "patch", "patch", "conv_in", "embed")
        kernel = self.param("patch_embedding", init, shape, compute.param_dtype)
        x = jnp.tensordot(patches, kernel.astype(compute.dtype), 3)
        if config.patch_bias:
            zeros = with_axes(nn.initializers.zeros_init(), "embed")
            bias = self.param("patch_bias", zeros, (config.width,), compute.param_dtype)
            x = x + bias.astype(compute.dtype)
        return x

    def _positions(self, rows: int, columns: int) -> Float[Array, "patches embed"]:
        if self.config.positions == "sincos":
            return sincos_2d(rows, columns, self.config.width)
        table = self._position_table()
        return resample_positions(table, rows, columns, self.config.position_filter)

    def _position_table(self) -> Float[Array, "positions embed"]:
        """Learned positions of a square grid, row-major."""
        config = self.config
        init = with_axes(nn.initializers.normal(config.width**-0.5), "positions", "embed")
        shape = (config.table_grid**2, config.width)
        table: Array = self.param("positions", init, shape, self.compute.param_dtype)
        return table

    def _prefix(self) -> Float[Array, "extra embed"]:
        """Class and register tokens, which come before the patches and have no grid position."""
        config, dtype = self.config, self.compute.dtype
        init = with_axes(nn.initializers.normal(0.02), "none", "embed")

        def table(name: str, count: int) -> Float[Array, "extra embed"]:
            return self.param(name, init, (count, config.width), self.compute.param_dtype)

        tables = [jnp.zeros((0, config.width))]
        if config.pooling == "cls":
            cls = table("cls", 1)
            tables.append(cls + table("cls_position", 1) if config.cls_position else cls)
        if config.registers:
            tables.append(table("registers", config.registers))
        if config.mask_token:
            table("mask_token", 1)
        return jnp.concatenate(tables).astype(dtype)
