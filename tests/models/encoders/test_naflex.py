from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.models.tiny import STACK, images, tower, vit
from vljax.config import UserError, validate
from vljax.data.transforms.patches import sequence
from vljax.models.compute import Compute
from vljax.models.encoders import NaFlexViT
from vljax.models.kernels.attention.reference import cpu_attention
from vljax.models.kernels.attention.tpu import tpu_attention
from vljax.models.kernels.choose import Attention, Kernels
from vljax.models.node import Encoded

# Measured deviation between a sequence with padding and one without: at most 1.4e-6.
TOLERANCE = 5e-6
PATCH = 4
NAMES = ("image", "image_mask", "image_positions", "image_grid")


def naflex(**fields: Any) -> NaFlexViT:
    return NaFlexViT(**{**STACK, "image_size": 16, "patch_size": PATCH, "scan": False, **fields})


@functools.cache
def forward(config: NaFlexViT, compute: Compute | None = None) -> Callable[..., Encoded]:
    """Batches to what the encoder makes of them, with the parameters of the same ViT."""
    same = {name: getattr(config, name) for name in ("pooling", "positions", "registers")}
    params = tower(vit(scan=False, **same)).params
    module = config.module(compute or Compute(), "image")

    @jax.jit
    def encode(params: Any, image: Any, mask: Any, positions: Any, grid: Any) -> Encoded:
        inputs = {"positions": positions, "grid": grid}
        return module.apply({"params": params}, image, mask, **inputs)

    return lambda batch: jax.device_get(encode(params, *(batch[name] for name in NAMES)))


def batch(sizes: list[tuple[int, int]], length: int, seed: int = 0) -> dict[str, np.ndarray]:
    """Random images of given heights and widths as sequences."""
    made = [
        sequence(images(1, *size, seed=seed + i)[0], PATCH, length) for i, size in enumerate(sizes)
    ]
    return {name: np.stack([one[name] for one in made]) for name in NAMES}


@pytest.mark.parametrize("pooling", ["cls", "mean", "map"])
@pytest.mark.parametrize("positions", ["learned", "sincos"])
def test_whole_images_give_what_they_give_a_vit(pooling: str, positions: str) -> None:
    """Of the table's own grid and of two others; the parameters are the same."""
    fields = {"pooling": pooling, "positions": positions, "registers": 2}
    plain = tower(vit(scan=False, **fields))
    for size in ((16, 16), (8, 20), (28, 4)):
        made = batch([size, size], size[0] * size[1] // PATCH**2)
        whole = np.concatenate([images(1, *size, seed=i) for i in range(2)])
        ours, theirs = forward(naflex(**fields))(made), plain(whole)
        for name in ("tokens", "pooled", "positions"):
            a, b = getattr(ours, name), getattr(theirs, name)
            np.testing.assert_allclose(a, b, rtol=0, atol=TOLERANCE, err_msg=name)
        assert np.array_equal(ours.mask, theirs.mask)


@pytest.mark.parametrize("pooling", ["cls", "mean", "map"])
@pytest.mark.parametrize("attention", [cpu_attention, tpu_attention])
def test_padding_and_neighbours_change_nothing(pooling: str, attention: Attention) -> None:
    """Each image of a batch with different grids gets the result that it gets alone."""
    encode = forward(naflex(pooling=pooling), Compute(kernels=Kernels(attention)))
    sizes = [(16, 16), (4, 52), (64, 4), (12, 20)]
    together = batch(sizes, 20)
    changed = {**together, "image": together["image"].copy()}
    changed["image"][~together["image_mask"]] = 255
    first, second = encode(together), encode(changed)
    assert np.array_equal(first.pooled, second.pooled)
    assert np.all(first.positions[~first.mask] == -1)
    for i, size in enumerate(sizes):
        alone = encode(batch([size], size[0] * size[1] // PATCH**2, seed=i))
        real = first.mask[i]
        np.testing.assert_allclose(first.tokens[i][real], alone.tokens[0], rtol=0, atol=TOLERANCE)
        np.testing.assert_allclose(first.pooled[i], alone.pooled[0], rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize("pooling", ["cls", "mean", "map"])
def test_no_grid_gives_nan(pooling: str) -> None:
    """Strips, grids far finer than the table, none at all, and no token to attend to."""
    grids = [(1, 128), (128, 1), (100, 1), (128, 128), (1, 1), (0, 0)]
    length = 128
    positions = np.zeros((len(grids), length, 2), np.int32)
    for row, (rows, columns) in zip(positions, grids, strict=True):
        cells = np.indices((rows, columns)).reshape(2, -1).T[-length:]
        row[: len(cells)] = cells
    mask = np.arange(length) < np.array([[min(r * c, length)] for r, c in grids])
    pixels = np.random.default_rng(0).integers(0, 256, (len(grids), length, 48), dtype=np.uint8)
    module = naflex(pooling=pooling).module(Compute(kernels=Kernels(cpu_attention)), "image")
    params = tower(vit(scan=False, pooling=pooling)).params
    rest = {"positions": positions, "grid": np.array(grids, np.int32)}

    def loss(params: Any, *inputs: Any) -> tuple[jax.Array, Encoded]:
        image, mask, rest = inputs
        encoded = module.apply({"params": params}, image, mask, **rest)
        return jnp.sum(encoded.pooled**2), encoded

    both = jax.jit(jax.value_and_grad(loss, has_aux=True))
    (_, encoded), gradients = both(params, pixels, mask, rest)
    for array in jax.tree.leaves((encoded, gradients)):
        assert np.isfinite(array).all()


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (
            {"image_size": 18},
            r"image_size: 18 pixels are not a multiple of the patch \(4\); use 16",
        ),
        (
            {"image_size": 3},
            r"patch_size: a patch of 4 pixels is larger than the image \(3 pixels\); "
            "make it at most 3",
        ),
    ],
)
def test_a_bad_value_is_named(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=f"^{message}$"):
        validate(naflex(**fields))
