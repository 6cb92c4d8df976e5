"""Factors of logits against their definition in float64; what a device holds of the logits."""

import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.objectives import dense
from tests.objectives.cases import BATCH, IMAGE, KINDS, SCALES, SOME, TEXT, loss_of, mesh_of
from vljax.objectives.pair_logits import MAX_LOGITS, Tiling, pair_logits
from vljax.parallel.rules import batch_sharding

# A few roundings of float32 of numbers up to 100.
TOLERANCE = 1e-6


def products(logits):
    inner = np.float64(logits.images.vector) @ np.float64(logits.texts.vector).T
    return inner + np.float64(logits.images.offset)[:, None] + np.float64(logits.texts.offset)


@pytest.mark.parametrize("similarity", SCALES)
def test_factors_make_the_logits(similarity):
    image, text = jnp.float32(IMAGE), jnp.float32(TEXT)
    logits = pair_logits(image, text, jnp.asarray(SOME), similarity, 5.0, -2.0)
    with jax.enable_x64():
        truth = np.asarray(dense.logits(jnp.asarray(IMAGE), TEXT, similarity, 5.0, -2.0))
    kept, scale = np.ix_(SOME, SOME), np.abs(truth).max()
    np.testing.assert_allclose(products(logits)[kept], truth[kept], atol=TOLERANCE * scale)
    np.testing.assert_allclose(
        logits.positive[SOME], np.diagonal(truth)[SOME], rtol=TOLERANCE, atol=TOLERANCE
    )


@pytest.mark.parametrize("similarity", SCALES)
def test_invalid_examples_have_no_finite_logits(similarity):
    image = jnp.where(SOME[:, None], jnp.float32(IMAGE), jnp.nan)
    logits = pair_logits(image, jnp.float32(TEXT), jnp.asarray(SOME), similarity, 5.0, -2.0)
    found = products(logits)
    assert np.all(np.isfinite(found) == (SOME[:, None] & SOME))
    assert np.all(found[~SOME] == -np.inf)
    assert np.all(logits.positive[~SOME] == 0)


def test_rounding_exceeds_the_error_of_products_and_is_far_below_differences_that_count():
    """Products of equal vectors, summed in two orders, differ by less than `rounding`."""
    rng = np.random.default_rng(2)
    image, text = (np.float32(rng.normal(size=(BATCH, 768))) for _ in range(2))
    logits = pair_logits(jnp.asarray(image), jnp.asarray(text), jnp.ones(BATCH, bool), "cosine")
    x, y = np.asarray(logits.images.vector), np.asarray(logits.texts.vector)
    forward = np.cumsum(x * y, axis=1, dtype=np.float32)[:, -1]
    backward = np.cumsum((x * y)[:, ::-1], axis=1, dtype=np.float32)[:, -1]
    assert np.all(np.abs(forward - backward) < logits.rounding)
    assert np.all(logits.rounding < 1e-5)


# --- What a device holds: no more logits than a tile, and no more program than it needs -----------


def program_of(kind, tiling, batch=BATCH, dim=4, argnums=(0, 1, 2, 3)):
    """The compiled gradients of a loss, as text; nothing runs."""
    loss = jax.value_and_grad(loss_of("cosine", KINDS[kind], tiling), argnums)
    vectors = jax.ShapeDtypeStruct((batch, dim), jnp.float32, sharding=batch_sharding(tiling.mesh))
    return jax.jit(loss).lower(vectors, vectors, 1.0, 0.0, np.ones(batch, bool)).compile().as_text()


@pytest.mark.parametrize("kind", KINDS)
def test_no_array_is_larger_than_a_tile(kind):
    text = program_of(kind, Tiling(mesh_of((2, 2, 2)), 32), batch=1024, dim=8)
    shapes = re.findall(r"\b(?:f32|f64|pred|s32|u32)\[([\d,]+)\]", text)
    assert max(math.prod(map(int, dims.split(","))) for dims in shapes) == 1024 // 4 * 32


def test_the_default_tile():
    assert Tiling().texts_of(1) == MAX_LOGITS  # a block that is no larger is not split
    assert [Tiling().texts_of(n) * n for n in (1024, 2048, 8192)] == [MAX_LOGITS] * 3
    assert Tiling().texts_of(2**20) == 128
    assert Tiling().texts_of(3000) % 128 == 0


@pytest.mark.parametrize("kind", KINDS)
def test_a_block_that_fits_a_tile_costs_what_the_dense_loss_does(kind):
    """Three matrix products without a loop: forward, and one gradient for each modality."""
    text = program_of(kind, Tiling(mesh_of((1, 1, 1))))
    assert len(re.findall(r" dot\(", text)) == 3
    assert " while(" not in text


@pytest.mark.parametrize("kind", KINDS)
def test_the_program_does_not_grow_with_the_ring(kind):
    programs = (program_of(kind, Tiling(mesh_of((n, 1, 1))), argnums=0) for n in (4, 8))
    sizes = [len(re.findall(r" collective-permute(?:-start)?\(", text)) for text in programs]
    assert sizes[0] == sizes[1] > 0
