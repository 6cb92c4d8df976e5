"""The parts of logits against their definition in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.objectives import dense
from tests.objectives.cases import BATCH, IMAGE, SCALES, SOME, TEXT
from vljax.objectives.pair_logits import pairs

# A few roundings of float32 of numbers up to 100.
TOLERANCE = 1e-6


def logits_of(of):
    products = np.float64(of.images.vector) @ np.float64(of.texts.vector).T
    return products + np.float64(of.images.offset)[:, None] + np.float64(of.texts.offset)


@pytest.mark.parametrize("similarity", SCALES)
def test_parts_make_the_logits(similarity):
    image, text = jnp.float32(IMAGE), jnp.float32(TEXT)
    of = pairs(image, text, jnp.asarray(SOME), similarity, 5.0, -2.0)
    with jax.enable_x64():
        truth = np.asarray(dense.logits(jnp.asarray(IMAGE), TEXT, similarity, 5.0, -2.0))
    kept, scale = np.ix_(SOME, SOME), np.abs(truth).max()
    np.testing.assert_allclose(logits_of(of)[kept], truth[kept], atol=TOLERANCE * scale)
    np.testing.assert_allclose(
        of.positive[SOME], np.diagonal(truth)[SOME], rtol=TOLERANCE, atol=TOLERANCE
    )


@pytest.mark.parametrize("similarity", SCALES)
def test_invalid_examples_have_no_finite_logits(similarity):
    image = jnp.where(SOME[:, None], jnp.float32(IMAGE), jnp.nan)
    of = pairs(image, jnp.float32(TEXT), jnp.asarray(SOME), similarity, 5.0, -2.0)
    logits = logits_of(of)
    assert np.all(np.isfinite(logits) == (SOME[:, None] & SOME))
    assert np.all(logits[~SOME] == -np.inf)
    assert np.all(of.positive[~SOME] == 0)


def test_rounding_is_above_what_products_differ_by_and_far_below_what_counts():
    """Products of equal vectors, summed in two orders, differ by less than `rounding`."""
    rng = np.random.default_rng(2)
    image, text = (np.float32(rng.normal(size=(BATCH, 768))) for _ in range(2))
    of = pairs(jnp.asarray(image), jnp.asarray(text), jnp.ones(BATCH, bool), "cosine")
    x, y = np.asarray(of.images.vector), np.asarray(of.texts.vector)
    forward = np.cumsum(x * y, axis=1, dtype=np.float32)[:, -1]
    backward = np.cumsum((x * y)[:, ::-1], axis=1, dtype=np.float32)[:, -1]
    assert np.all(np.abs(forward - backward) < of.rounding)
    assert np.all(of.rounding < 1e-5)
