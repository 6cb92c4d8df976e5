"""NaFlex against Hugging Face's Siglip2 (`make_naflex.py` made the references).

The references are float64, vljax computes in float32.
"""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.parity.test_towers import attention
from vljax.data.transforms.patches import Patchify, grid_within
from vljax.models.compute import Compute
from vljax.models.encoders import NaFlexViT
from vljax.models.kernels.attention.reference import cpu_attention, reference_attention
from vljax.models.kernels.attention.tpu import tpu_attention
from vljax.models.kernels.choose import Attention, Kernels
from vljax.models.layers.inputs import resample_at

PATCH, BUDGET, SIDE, HEADS = 4, 12, 5, 3
TOWER_TOLERANCE = 5e-6
POSITION_TOLERANCE = 1e-5
LONGEST = 512  # the weights of more patches take too much memory for a test

Tree = dict[str, Any]


@functools.cache
def reference(name: str) -> dict[str, np.ndarray]:
    with np.load(Path(__file__).parent / "data" / f"{name}.npz") as stored:
        return dict(stored)


def parameters() -> Tree:
    """The reference's weights in vljax's layout; checks that all are used."""
    stored = reference("naflex")
    weights = {
        k.removeprefix("weights/"): v.astype(np.float32)
        for k, v in stored.items()
        if k.startswith("weights/")
    }

    def linear(name: str) -> Tree:
        return {"kernel": weights.pop(f"{name}.weight").T, "bias": weights.pop(f"{name}.bias")}

    def norm(name: str) -> Tree:
        return {"scale": weights.pop(f"{name}.weight"), "bias": weights.pop(f"{name}.bias")}

    def mlp(name: str) -> Tree:
        return {"up": linear(f"{name}.fc1"), "down": linear(f"{name}.fc2")}

    def pair(name: str) -> tuple[np.ndarray, np.ndarray]:
        return weights.pop(f"{name}.weight"), weights.pop(f"{name}.bias")

    def block(name: str) -> Tree:
        names = {"query": "q_proj", "key": "k_proj", "value": "v_proj", "output": "out_proj"}
        projections = {ours: pair(f"{name}.self_attn.{theirs}") for ours, theirs in names.items()}
        return {
            "attention_norm": norm(f"{name}.layer_norm1"),
            "attention": attention(projections, HEADS),
            "mlp_norm": norm(f"{name}.layer_norm2"),
            "mlp": mlp(f"{name}.mlp"),
        }

    def pooling() -> Tree:
        kernels = np.split(weights.pop("head.attention.in_proj_weight"), 3)
        biases = np.split(weights.pop("head.attention.in_proj_bias"), 3)
        pairs = zip(kernels, biases, strict=True)
        projections = dict(zip(("query", "key", "value"), pairs, strict=True))
        projections["output"] = pair("head.attention.out_proj")
        return {
            "probe": weights.pop("head.probe")[0],
            "attention": attention(projections, HEADS),
            "norm": norm("head.layernorm"),
            "mlp": mlp("head.mlp"),
        }

    patches = linear("embeddings.patch_embedding")
    tree = {
        "patch_embedding": patches["kernel"].reshape(PATCH, PATCH, 3, -1),
        "patch_bias": patches["bias"],
        "positions": weights.pop("embeddings.position_embedding.weight"),
        "blocks": {str(i): block(f"encoder.layers.{i}") for i in range(2)},
        "norm": norm("post_layernorm"),
        "pooling": pooling(),
    }
    assert not weights
    return tree


@pytest.mark.parametrize("attention", [reference_attention, cpu_attention, tpu_attention])
def test_tower(attention: Attention) -> None:
    stored = reference("naflex")
    config = NaFlexViT(
        width=24,
        depth=2,
        heads=HEADS,
        mlp_dim=40,
        image_size=SIDE * PATCH,
        patch_size=PATCH,
        pooling="map",
        scan=False,
    )
    module = config.module(Compute(kernels=Kernels(attention)), "image")
    made = [_patchified(i) for i in range(len(stored["image_grid"]))]
    batch = {name: np.stack([one[name] for one in made]) for name in made[0]}
    encoded = jax.jit(
        lambda params, image, mask, positions, grid: module.apply(
            {"params": params}, image, mask, positions=positions, grid=grid
        )
    )(parameters(), *(batch[k] for k in ("image", "image_mask", "image_positions", "image_grid")))
    real = stored["image_mask"]
    assert real.any(1).all()
    assert not real.all()
    tokens = np.asarray(encoded.tokens)[real], stored["tokens"][real]
    np.testing.assert_allclose(*tokens, rtol=0, atol=TOWER_TOLERANCE)
    np.testing.assert_allclose(encoded.pooled, stored["pooled"], rtol=0, atol=TOWER_TOLERANCE)


def _patchified(number: int) -> dict[str, np.ndarray]:
    image = reference("naflex")[f"source/{number}"]
    transform = Patchify(PATCH, lengths=(BUDGET,))
    example = transform({"image": image}, np.random.default_rng(0))
    return {name: array for name, array in example.items() if name.startswith("image")}


@pytest.mark.parametrize("number", range(5))
def test_patches_equal_those_of_the_image_processor(number: int) -> None:
    """The same grid, mask and order, and pixel for pixel the same: both resize with Pillow."""
    stored, ours = reference("naflex"), _patchified(number)
    for name in ("image_grid", "image_mask", "image"):
        np.testing.assert_array_equal(ours[name], stored[name][number], err_msg=name)


@pytest.mark.parametrize("table", ["table", "fine"])
def test_positions_equal_those_of_torch_interpolate(table: str) -> None:
    """All grids in one batch and one compile: squares, strips, one patch, finer than the table."""
    stored = reference("naflex_positions")
    side = len(stored[table])
    flat = stored[table].reshape(side * side, -1)
    expected = {
        tuple(map(int, key.split("/")[1].split("x"))): array
        for key, array in stored.items()
        if key.startswith(f"{table}/")
    }
    length = max(map(len, expected.values()))
    assert length > LONGEST
    grid = np.array(list(expected), np.int32)
    positions = np.zeros((len(grid), length, 2), np.int32)
    for row, (rows, columns) in zip(positions, grid, strict=True):
        row[: rows * columns] = np.indices((rows, columns)).reshape(2, -1).T
    resample = jax.jit(lambda *inputs: resample_at(*inputs))  # with a cache of its own
    made = np.asarray(resample(flat, positions[:, :LONGEST], grid))
    for ours, theirs in zip(made, expected.values(), strict=True):
        count = min(len(theirs), made.shape[1])
        np.testing.assert_allclose(ours[:count], theirs[:count], rtol=0, atol=POSITION_TOLERANCE)
    assert resample._cache_size() == 1
    assert np.isfinite(made).all()


def test_positions_of_a_grid_of_128_x_128() -> None:
    stored = reference("naflex_positions")
    flat, expected = stored["fine"].reshape(64 * 64, -1), stored["fine/128x128"]
    places = np.indices((128, 128)).reshape(2, -1).T.astype(np.int32)
    for part in np.arange(128**2).reshape(-1, LONGEST)[::3]:
        grid = jnp.full((1, 2), 128)
        ours = resample_at(jnp.asarray(flat), jnp.asarray(places[None, part]), grid)
        np.testing.assert_allclose(ours[0], expected[part], rtol=0, atol=POSITION_TOLERANCE)


def test_grids_equal_those_of_the_image_processor() -> None:
    rows = reference("naflex_sizes")["rows"].tolist()
    assert len(rows) == 400
    for height, width, patch, budget, *expected in rows:
        assert grid_within(height, width, patch, budget) == tuple(expected)
