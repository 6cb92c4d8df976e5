from __future__ import annotations

import dataclasses
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest

from tests.models import reference
from tests.models.tiny import float64, images, tower, vit
from vljax.config import UserError, notes, validate
from vljax.models.compute import Compute
from vljax.models.layers.inputs import resample_positions

# Measured deviation from the float64 reference: at most 1.7e-6, on values up to 7.
TOLERANCE = 5e-6


def centres(rows: int, columns: int) -> np.ndarray:
    points = [[(r + 0.5) / rows, (c + 0.5) / columns] for r in range(rows) for c in range(columns)]
    return np.asarray(points)


@pytest.mark.parametrize("pooling", ["cls", "mean", "map"])
@pytest.mark.parametrize("positions", ["learned", "sincos"])
@pytest.mark.parametrize("registers", [0, 3])
def test_options_together(pooling: str, positions: str, registers: int) -> None:
    config = vit(pooling=pooling, positions=positions, registers=registers)
    model, image = tower(config), images(2, 16, 16)
    encoded = model(image)
    tokens, pooled = reference.vit(float64(model.params), image, config)
    np.testing.assert_allclose(encoded.tokens, tokens, rtol=0, atol=TOLERANCE)
    np.testing.assert_allclose(encoded.pooled, pooled, rtol=0, atol=TOLERANCE)
    extra = registers + (pooling == "cls")
    assert encoded.tokens.shape == (2, 16 + extra, 32)
    assert encoded.mask.shape == (2, 16 + extra)
    assert encoded.mask.all()
    assert np.all(encoded.positions[:, :extra] == -1)
    expected = np.broadcast_to(centres(4, 4), (2, 16, 2))
    np.testing.assert_allclose(encoded.positions[:, extra:], expected, rtol=0, atol=1e-7)


def test_options_of_clip() -> None:
    mean, std = (0.48, 0.46, 0.41), (0.27, 0.26, 0.28)
    config = vit(
        pooling="cls", input_norm=True, patch_bias=False, pixel_mean=mean, pixel_std=std, scan=False
    )
    model, image = tower(config), images(2, 16, 16)
    assert "patch_bias" not in model.params
    assert "input_norm" in model.params
    tokens, pooled = reference.vit(float64(model.params), image, config)
    np.testing.assert_allclose(model(image).tokens, tokens, rtol=0, atol=TOLERANCE)
    np.testing.assert_allclose(model(image).pooled, pooled, rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize("positions", ["learned", "sincos"])
@pytest.mark.parametrize(("height", "width"), [(24, 24), (8, 20)])
def test_another_resolution_at_call_time(positions: str, height: int, width: int) -> None:
    config = vit(pooling="cls", positions=positions)
    model, image = tower(config), images(2, height, width)
    encoded = model(image)
    tokens, pooled = reference.vit(float64(model.params), image, config)
    np.testing.assert_allclose(encoded.tokens, tokens, rtol=0, atol=TOLERANCE)
    np.testing.assert_allclose(encoded.pooled, pooled, rtol=0, atol=TOLERANCE)
    expected = np.broadcast_to(centres(height // 4, width // 4), encoded.positions[:, 1:].shape)
    np.testing.assert_allclose(encoded.positions[:, 1:], expected, rtol=0, atol=1e-7)


def test_leftover_pixels_are_not_seen() -> None:
    config = vit(image_size=18)
    model, image = tower(config), images(2, 18, 18)
    changed = images(2, 18, 18, seed=1)
    changed[:, :16, :16] = image[:, :16, :16]
    assert not np.array_equal(image, changed)
    assert np.array_equal(model(image).tokens, model(changed).tokens)
    changed[:, 15, 15] = 255 - image[:, 15, 15]
    assert not np.array_equal(model(image).tokens, model(changed).tokens)


def test_uint8_and_normalised_images_are_the_same() -> None:
    """Up to the rounding of the normalisation: 1e-6 of a token."""
    config = vit(pixel_mean=(0.48, 0.46, 0.41), pixel_std=(0.27, 0.26, 0.28))
    model, image = tower(config), images(2, 16, 16)
    scaled = (image / 255 - np.asarray(config.pixel_mean)) / np.asarray(config.pixel_std)
    ours, theirs = model(image), model(scaled.astype(np.float32))
    np.testing.assert_allclose(ours.tokens, theirs.tokens, rtol=0, atol=3e-6)


@pytest.mark.parametrize("pooling", ["cls", "mean", "map"])
def test_masked_patches_do_not_count(pooling: str) -> None:
    """What a padded patch holds changes nothing, and the batch says which tokens are real."""
    model, image = tower(vit(pooling=pooling, registers=2)), images(2, 16, 16)
    mask = np.ones((2, 16), bool)
    mask[0, 12:] = False  # the last row of patches
    changed = image.copy()
    changed[0, 12:] = 255 - image[0, 12:]
    first, second = model(image, mask), model(changed, mask)
    extra = first.tokens.shape[1] - 16
    assert np.array_equal(first.pooled, second.pooled)
    real = np.pad(mask, ((0, 0), (extra, 0)), constant_values=True)
    assert np.array_equal(first.mask, real)
    assert np.array_equal(first.tokens[real], second.tokens[real])
    assert not np.allclose(first.pooled[0], model(image).pooled[0], atol=1e-3)
    np.testing.assert_allclose(first.pooled[1], model(image).pooled[1], rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize("pooling", ["mean", "map"])
def test_masked_patches_are_as_if_absent(pooling: str) -> None:
    """With sine-cosine positions an image of fewer rows is the image with its last row masked."""
    model, image = tower(vit(pooling=pooling, positions="sincos")), images(2, 16, 16)
    mask = np.repeat([[True, True, True, False]], 2, axis=0).repeat(4, axis=1)
    masked, cut = model(image, mask), model(image[:, :12])
    np.testing.assert_allclose(masked.pooled, cut.pooled, rtol=0, atol=TOLERANCE)


def test_bfloat16_compute_keeps_float32_parameters() -> None:
    """8 bits of mantissa over two blocks: within 5 % of the largest value."""
    config = vit()
    exact = tower(config)(images(2, 16, 16))
    rough = tower(config, Compute(dtype=jnp.bfloat16))(images(2, 16, 16))
    assert rough.tokens.dtype == jnp.bfloat16
    assert rough.pooled.dtype == jnp.bfloat16
    error = np.abs(rough.tokens.astype(np.float32) - exact.tokens).max()
    assert 0 < error < 0.05 * np.abs(exact.tokens).max()


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (
            {"patch_size": 32},
            r"patch_size: a patch of 32 pixels is larger than the image \(16 pixels\); "
            "make it at most 16",
        ),
        ({"patch_size": 0}, "patch_size: must be at least 1, not 0"),
        (
            {"positions": "sincos", "width": 6, "heads": 2},
            "positions: sincos needs a width of 8, 12, 16, ..., not 6",
        ),
        ({"registers": -1}, "registers: must be at least 0, not -1"),
        ({"heads": 3}, "heads: 3 heads do not divide the width 32; 2 would"),
    ],
)
def test_a_bad_value_is_named(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=f"^{message}$"):
        validate(vit(**fields))


def test_leftover_pixels_are_said_not_refused() -> None:
    """So400m/14 at 384 pixels leaves 6 over (Zhai et al. 2023)."""
    config = validate(vit(image_size=384, patch_size=14))
    (note,) = notes(config)
    assert note == (
        "image_size: 384 pixels are not a multiple of the patch (14): "
        "6 pixels at the bottom and right edges are not used"
    )
    assert config.grid == 27
    assert notes(dataclasses.replace(config, image_size=378)) == []


@pytest.mark.parametrize("activation", ["gelu", "swiglu"])
@pytest.mark.parametrize("scan", [True, False])
def test_options_of_dinov2(activation: str, scan: bool) -> None:
    options = {"layer_scale": 0.5, "registers": 3, "mask_token": True, "activation": activation}
    config = vit(pooling="cls", scan=scan, **options)
    model, image = tower(config), images(2, 16, 16)
    tokens, pooled = reference.vit(float64(model.params), image, config)
    np.testing.assert_allclose(model(image).tokens, tokens, rtol=0, atol=TOLERANCE)
    np.testing.assert_allclose(model(image).pooled, pooled, rtol=0, atol=TOLERANCE)


def test_a_table_of_positions_for_larger_images() -> None:
    config = vit(pooling="cls", table_size=32)
    model, image = tower(config), images(2, 16, 16)
    assert model.params["positions"].shape == (64, 32)
    table = reference.resample(model.params["positions"], 4, 4)
    plain = {**model.params, "positions": table.astype(np.float32)}
    expected = tower(vit(pooling="cls")).forward(plain, image)
    np.testing.assert_allclose(model(image).tokens, expected.tokens, rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize("name", ["bilinear", "bicubic", "bicubic_pytorch"])
def test_resampled_positions_of_a_constant_table_are_constant(name: str) -> None:
    made = resample_positions(jnp.ones((49, 2)), 3, 10, name)
    np.testing.assert_allclose(made, 1, rtol=0, atol=1e-6)


def test_a_table_smaller_than_a_patch_is_refused() -> None:
    with pytest.raises(UserError, match=r"table_size: must be at least a patch \(4 pixels\)"):
        validate(vit(table_size=3))
