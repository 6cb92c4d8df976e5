"""Towers by the names of their sizes in the literature (B/16, L/14, So400m, ...)."""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

from vljax.config import UserError, suggest
from vljax.models.encoders import ResNet, TextTransformer, ViT


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


RESNETS: dict[int, tuple[Literal["basic", "bottleneck"], tuple[int, ...]]] = {
    18: ("basic", (2, 2, 2, 2)),
    34: ("basic", (3, 4, 6, 3)),
    50: ("bottleneck", (3, 4, 6, 3)),
    101: ("bottleneck", (3, 4, 23, 3)),
    152: ("bottleneck", (3, 8, 36, 3)),
}
"""Kind and number of blocks by the number of layers (He et al. 2016, table 1)."""


def resnet(layers: int, **fields: Any) -> ResNet:
    """A ResNet of 18, 34, 50, 101 or 152 layers; `fields` are other fields of `ResNet`.

    >>> resnet(50, image_size=224).width, resnet(18, norm="group").width
    (2048, 512)

    Raises:
      UserError: for another number of layers.
    """
    if layers not in RESNETS:
        known = ", ".join(map(str, RESNETS))
        raise UserError(f"no ResNet has {layers} layers; there are those of {known}")
    block, repeats = RESNETS[layers]
    return ResNet(**{"block": block, "repeats": repeats, **fields})


def bert(name: str = "B", **fields: Any) -> TextTransformer:
    """A bidirectional text transformer with the form of BERT (Devlin et al. 2019).

    A norm follows each residual sum, and the pooled vector is the first token (CLS). Base is "B",
    large is "L".

    >>> tower = bert("B", context_length=64)
    >>> tower.post_norm, tower.pooling, tower.vocab_size
    (True, 'first', 30522)

    Raises:
      UserError: for an unknown size.
    """
    form: dict[str, Any] = {
        **{"vocab_size": 30_522, "context_length": 512, "token_types": 2, "embedding_norm": True},
        **{"post_norm": True, "activation": "gelu", "norm_epsilon": 1e-12, "pooling": "first"},
    }
    return TextTransformer(**{**_size(name), **form, **fields})


def gpt2(name: str = "B", **fields: Any) -> TextTransformer:
    """A causal text transformer with the form of GPT-2 (Radford et al. 2019).

    A norm precedes each residual branch, and the pooled vector is the last token that is not
    padding. GPT-2 small is "B".

    >>> tower = gpt2("B", context_length=64)
    >>> tower.causal, tower.pooling, tower.vocab_size
    (True, 'eos', 50257)

    Raises:
      UserError: for an unknown size.
    """
    form: dict[str, Any] = {
        **{"vocab_size": 50_257, "context_length": 1024, "causal": True, "pooling": "eos"},
        **{"activation": "gelu_tanh", "norm_epsilon": 1e-5},
    }
    return TextTransformer(**{**_size(name), **form, **fields})


def _size(name: str) -> dict[str, int]:
    if name not in SIZES:
        raise UserError(f"unknown size {name!r}{suggest(name, SIZES)}")
    return SIZES[name]._asdict()
