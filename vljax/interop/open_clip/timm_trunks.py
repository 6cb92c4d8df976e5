"""The SigLIP image towers of timm by name. An open_clip configuration holds only the name."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, NamedTuple

from vljax.models.presets import SIZES, Size

EPSILON = 1e-6
"""The epsilon of all layer norms in timm's ViT."""


class Trunk(NamedTuple):
    """An image tower of timm with attention pooling (timm/models/vision_transformer.py)."""

    size: Size
    patch: int
    image: int
    activation: str

    def fields(self) -> dict[str, Any]:
        """The fields of our ViT that the name determines."""
        sides = {"patch_size": self.patch, "image_size": self.image}
        return {**self.size._asdict(), **sides, "activation": self.activation}


_SIZES = {
    "base": SIZES["B"],
    "large": SIZES["L"],
    "so400m": SIZES["So400m"],
    "giantopt": Size(1536, 40, 6144, 16),
}
# The activation depends on when timm added the model: the first SigLIPs have the exact GELU.
_EXACT = """base_patch16_siglip_224 base_patch16_siglip_256 base_patch16_siglip_384
    base_patch16_siglip_512 large_patch16_siglip_256 large_patch16_siglip_384
    so400m_patch14_siglip_224 so400m_patch14_siglip_378 so400m_patch14_siglip_384"""
_TANH = """base_patch32_siglip_256 large_patch16_siglip_512 so400m_patch16_siglip_256
    so400m_patch16_siglip_384 so400m_patch16_siglip_512 giantopt_patch16_siglip_256
    giantopt_patch16_siglip_384"""


def _trunks() -> Iterator[tuple[str, Trunk]]:
    for names, activation in ((_EXACT, "gelu"), (_TANH, "gelu_tanh")):
        for name in names.split():
            size, patch, image = re.fullmatch(r"(\w+)_patch(\d+)_siglip_(\d+)", name).groups()  # type: ignore[union-attr]
            yield f"vit_{name}", Trunk(_SIZES[size], int(patch), int(image), activation)


TRUNKS: dict[str, Trunk] = dict(_trunks())
