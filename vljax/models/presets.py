"""Named sizes of the towers, as in the papers that introduced them."""

from __future__ import annotations

from typing import Any, NamedTuple

from vljax.config import UserError, suggest
from vljax.models.encoders import TextTransformer, ViT


class Size(NamedTuple):
    """Width, depth, MLP size and heads of a transformer."""

    width: int
    depth: int
    mlp_dim: int
    heads: int


SIZES = {
    "Ti": Size(192, 12, 768, 3),  # Touvron et al. 2021 (DeiT)
    "S": Size(384, 12, 1536, 6),  # Touvron et al. 2021 (DeiT)
    "B": Size(768, 12, 3072, 12),  # Dosovitskiy et al. 2021 (ViT)
    "L": Size(1024, 24, 4096, 16),  # Dosovitskiy et al. 2021 (ViT)
    "So400m": Size(1152, 27, 4304, 16),  # Alabdulmohsin et al. 2023 (shape-optimized ViT)
    "H": Size(1280, 32, 5120, 16),  # Dosovitskiy et al. 2021 (ViT)
    "g": Size(1408, 40, 6144, 16),  # Zhai et al. 2022 (Scaling Vision Transformers)
}


def vit(variant: str, **fields: Any) -> ViT:
    """A ViT by size and patch, as in `vit("B/16", image_size=224)`.

    Raises:
      UserError: for an unknown size, or a variant that is not SIZE/PATCH.
    """
    name, _, patch = variant.partition("/")
    if not patch.isdigit():
        raise UserError(f"{variant!r} is no ViT variant: write SIZE/PATCH, as in B/16")
    return ViT(**{**_size(name), "patch_size": int(patch), **fields})


def text(name: str, **fields: Any) -> TextTransformer:
    """A text transformer by size, as in `text("B", vocab_size=32_000, context_length=64)`.

    Raises:
      UserError: for an unknown size.
    """
    return TextTransformer(**{**_size(name), **fields})


def _size(name: str) -> dict[str, int]:
    if name not in SIZES:
        raise UserError(f"unknown size {name!r}{suggest(name, SIZES)}")
    return SIZES[name]._asdict()
