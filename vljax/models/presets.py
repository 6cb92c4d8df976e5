"""Towers by the names of their sizes in the literature (B/16, L/14, So400m, ...)."""

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
    """A ViT of a named size and patch size; `fields` are other fields of `ViT`.

    >>> tower = vit("B/16", image_size=224)
    >>> tower.width, tower.depth, tower.patch_size
    (768, 12, 16)

    Raises:
      UserError: for an unknown size, or a variant that is not SIZE/PATCH.
    """
    name, _, patch = variant.partition("/")
    if not patch.isdigit():
        raise UserError(f"{variant!r} is not a ViT variant: write SIZE/PATCH, as in B/16")
    return ViT(**{**_size(name), "patch_size": int(patch), **fields})


def text(name: str, **fields: Any) -> TextTransformer:
    """A text transformer of a named size; `fields` are other fields of `TextTransformer`.

    >>> text("B", vocab_size=32_000, context_length=64).heads
    12

    Raises:
      UserError: for an unknown size.
    """
    return TextTransformer(**{**_size(name), **fields})


def _size(name: str) -> dict[str, int]:
    if name not in SIZES:
        raise UserError(f"unknown size {name!r}{suggest(name, SIZES)}")
    return SIZES[name]._asdict()
