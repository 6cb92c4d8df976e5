"""Named sizes against published parameter counts; shapes only, nothing is computed."""

from __future__ import annotations

import math

import jax
import pytest

from vljax.config import UserError, validate
from vljax.models import presets
from vljax.models.assembly import ModelConfig, build
from vljax.models.compute import Compute
from vljax.models.heads.embedding import Embedding
from vljax.models.node import Encoder


def parameters(name: str, encoder: Encoder, head: Embedding | None = None) -> int:
    config = ModelConfig({name: encoder} if head is None else {name: encoder, "head": head})
    shapes = build(config, Compute()).shapes
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(shapes))


@pytest.mark.parametrize(
    ("variant", "published"),
    [
        ("Ti/16", 5_717_416),  # the DeiT release, timm
        ("S/16", 22_050_664),
        ("B/16", 86_567_656),  # torchvision's vit_b_16, vit_l_16 and vit_h_14
        ("L/16", 304_326_632),
        ("H/14", 632_045_800),
    ],
)
def test_vit_with_a_classifier(variant: str, published: int) -> None:
    """Exact: a classifier of 1,000 classes and a position of the CLS token are what we lack."""
    config = presets.vit(variant, image_size=224, pooling="cls")
    ours = parameters("image", config)
    assert ours + 1000 * (config.width + 1) + config.width == published


@pytest.mark.parametrize(
    ("variant", "size", "millions"),
    [
        ("B/16", 224, 92.88),  # open_clip's model profile, ViT-B-16-SigLIP
        ("L/16", 256, 315.96),
        ("So400m/14", 384, 428.23),
    ],
)
def test_siglip_image_tower(variant: str, size: int, millions: float) -> None:
    config = presets.vit(variant, image_size=size, pooling="map")
    assert round(parameters("image", config) / 1e6, 2) == millions


@pytest.mark.parametrize(("size", "millions"), [("B", 110.27), ("So400m", 449.73)])
def test_siglip_text_tower(size: str, millions: float) -> None:
    """open_clip's model profile; 32,000 pieces, 64 tokens, an affine projection."""
    config = presets.text(size, vocab_size=32_000, context_length=64)
    ours = parameters("text", config, Embedding(config.width, {"text": "affine"}))
    assert round(ours / 1e6, 2) == millions


def test_vit_g() -> None:
    """1,011 M in table 2 of Zhai et al. 2022."""
    config = presets.vit("g/14", image_size=224, pooling="mean")
    assert round(parameters("image", config) / 1e6) == 1011


@pytest.mark.parametrize("size", sorted(presets.SIZES))
def test_every_size_is_a_valid_recipe(size: str) -> None:
    image = presets.vit(f"{size}/14", image_size=224)
    text = presets.text(size, vocab_size=100, context_length=8)
    assert validate(image) == image
    assert validate(text) == text


def test_fields_override_a_preset() -> None:
    config = presets.vit("B/32", image_size=64, depth=2, drop_path=0.1)
    assert (config.patch_size, config.depth, config.drop_path, config.width) == (32, 2, 0.1, 768)
    assert presets.text("S", vocab_size=9, context_length=4, width=96).width == 96


@pytest.mark.parametrize(
    ("variant", "message"),
    [
        ("B", "'B' is not a ViT variant: write SIZE/PATCH, as in B/16"),
        ("B/x", "'B/x' is not a ViT variant: write SIZE/PATCH, as in B/16"),
        ("So40m/14", "unknown size 'So40m'; did you mean 'So400m'?"),
        ("X/14", "unknown size 'X'; known: B, H, L, S, So400m, Ti, g"),
    ],
)
def test_an_unknown_variant_is_named(variant: str, message: str) -> None:
    with pytest.raises(UserError) as error:
        presets.vit(variant, image_size=224)
    assert str(error.value) == message
