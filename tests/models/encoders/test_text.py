from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.models import reference
from tests.models.tiny import float64, text, token_ids, tower
from vljax.config import UserError, decode, encode, validate
from vljax.models.compute import Call, Compute
from vljax.models.encoders import TextTransformer

# Measured deviation from the float64 reference: at most 1.7e-6, on values up to 7.
TOLERANCE = 5e-6
POOLINGS = ("first", "last", "eos", "mean", "map")
LENGTHS = np.array([8, 5, 1])
MASK = np.arange(8) < LENGTHS[:, None]


@pytest.mark.parametrize(
    ("pooling", "causal"),
    [*((pooling, False) for pooling in POOLINGS), ("eos", True), ("map", True)],
)
@pytest.mark.parametrize("mask_padding", [False, True])
def test_options_together(pooling: str, causal: bool, mask_padding: bool) -> None:
    config = text(pooling=pooling, causal=causal, mask_padding=mask_padding)
    model, ids = tower(config), token_ids(3, 8)
    encoded = model(ids, MASK)
    tokens, pooled = reference.text(float64(model.params), ids, MASK, config)
    np.testing.assert_allclose(encoded.tokens, tokens, rtol=0, atol=TOLERANCE)
    np.testing.assert_allclose(encoded.pooled, pooled, rtol=0, atol=TOLERANCE)
    assert np.array_equal(encoded.mask, MASK)
    assert encoded.positions is None


@pytest.mark.parametrize(
    ("pooling", "causal"),
    [*((pooling, False) for pooling in POOLINGS if pooling != "last"), ("eos", True)],
)
def test_more_padding_changes_nothing(pooling: str, causal: bool) -> None:
    model = tower(text(pooling=pooling, causal=causal))
    short = token_ids(3, 5)
    mask = np.arange(5) < np.array([5, 3, 1])[:, None]
    long, long_mask = np.pad(short, ((0, 0), (0, 3))), np.pad(mask, ((0, 0), (0, 3)))
    ours, theirs = model(long, long_mask), model(short, mask)
    # Sums over 8 instead of 5 terms, of which 3 are zero, may group differently.
    np.testing.assert_allclose(ours.pooled, theirs.pooled, rtol=0, atol=3e-6)
    np.testing.assert_allclose(ours.tokens[:, :5][mask], theirs.tokens[mask], rtol=0, atol=3e-6)


@pytest.mark.parametrize("pooling", ["first", "eos", "mean", "map"])
def test_what_the_padding_holds_changes_nothing(pooling: str) -> None:
    model, ids = tower(text(pooling=pooling)), token_ids(3, 8)
    changed = np.where(MASK, ids, (ids + 1) % 23)
    first, second = model(ids, MASK), model(changed, MASK)
    assert np.array_equal(first.pooled, second.pooled)
    assert np.array_equal(first.tokens[MASK], second.tokens[MASK])


def test_padding_that_is_let_in_counts() -> None:
    """As in SigLIP, whose text tower attends to its padding."""
    model, ids = tower(text(pooling="first", mask_padding=False)), token_ids(3, 8)
    changed = np.where(MASK, ids, (ids + 1) % 23)
    first, second = model(ids, MASK).pooled, model(changed, MASK).pooled
    assert np.array_equal(first[0], second[0])
    assert np.abs(first[1:] - second[1:]).max(axis=-1).min() > 1e-2


@pytest.mark.parametrize("scan", [True, False], ids=["scanned", "unrolled"])
def test_causal_text_does_not_look_ahead(scan: bool) -> None:
    model, ids = tower(text(causal=True, pooling="eos", scan=scan)), token_ids(2, 8)
    changed = ids.copy()
    changed[:, 5] = (ids[:, 5] + 1) % 23
    first, second = model(ids).tokens, model(changed).tokens
    assert np.array_equal(first[:, :5], second[:, :5])
    assert np.abs(first[:, 5:] - second[:, 5:]).max(axis=-1).min() > 1e-3


def test_bidirectional_text_looks_ahead() -> None:
    model, ids = tower(text()), token_ids(2, 8)
    changed = ids.copy()
    changed[:, 7] = (ids[:, 7] + 1) % 23
    moved = np.abs(model(ids).tokens - model(changed).tokens).max(axis=-1)
    assert moved.min() > 1e-3


def test_without_a_mask_every_token_is_real() -> None:
    model, ids = tower(text(pooling="mean")), token_ids(2, 6)
    bare, full = model(ids), model(ids, np.ones((2, 6), bool))
    assert bare.mask.all()
    # Two programs: a mask of ones may be computed in another order than no mask.
    np.testing.assert_allclose(bare.pooled, full.pooled, rtol=0, atol=3e-6)


def test_a_sequence_that_is_too_long_is_refused() -> None:
    with pytest.raises(ValueError, match=r"^9 tokens do not fit a context of 8"):
        tower(text())(token_ids(2, 9))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"vocab_size": 0}, "vocab_size: must be at least 1, not 0"),
        ({"context_length": -1}, "context_length: must be at least 1, not -1"),
        (
            {"causal": True, "pooling": "first"},
            "pooling: the first token of a causal tower attends to itself only; use last or eos",
        ),
        ({"heads": 3}, "heads: 3 heads do not divide the width 32; 2 would"),
    ],
)
def test_a_bad_value_is_named(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=f"^{message}$"):
        validate(text(**fields))


def test_an_unknown_pooling_is_named() -> None:
    fields = encode(text()) | {"pooling": "cls"}
    with pytest.raises(UserError, match=r"^pooling: unknown value 'cls'"):
        decode(TextTransformer, fields)


def test_positions_begin_behind_the_offset() -> None:
    """RoBERTa's table without its first rows is that of a tower without an offset."""
    shifted, ids = tower(text(position_offset=2)), token_ids(2, 8)
    assert shifted.params["positions"].shape == (10, 32)
    plain = {**shifted.params, "positions": shifted.params["positions"][2:]}
    expected = tower(text()).forward(plain, ids)
    np.testing.assert_array_equal(shifted(ids).tokens, expected.tokens)


def test_several_texts_of_an_example_are_encoded_one_by_one() -> None:
    """Dropout too is that of each text's row, wherever the batch is computed."""
    config = text(dropout=0.3, pooling="mean")
    module, params = config.module(Compute(), "text"), tower(config).params
    call, rngs = Call(train=True, example_index=jnp.array([4, 1])), {"dropout": jax.random.key(0)}
    ids = jnp.asarray(token_ids(6, 8).reshape(2, 3, 8))
    mask = jnp.asarray(np.arange(8) < np.array([[8, 5, 2], [7, 8, 3]])[..., None])
    encode = jax.jit(lambda *inputs: module.apply({"params": params}, *inputs, rngs=rngs))
    together = encode(ids, mask, call)
    assert together.tokens.shape == (6, 8, 32)
    for k in range(3):
        own = Call(train=True, example_index=call.example_index * 3 + k)
        alone = encode(ids[:, k], mask[:, k], own)
        for ours, theirs in zip(together[:3], alone[:3], strict=True):
            np.testing.assert_allclose(ours[k::3], theirs, rtol=0, atol=1e-6)
    everything = encode(ids, mask, Call(train=True))
    rows = encode(ids.reshape(6, 8), mask.reshape(6, 8), Call(train=True))
    np.testing.assert_allclose(everything.tokens, rows.tokens, rtol=0, atol=1e-6)


def test_a_tower_has_no_context() -> None:
    with pytest.raises(UserError, match=r"^cross_attention: an encoder has no context; use none"):
        validate(text(cross_attention="after_self"))
