"""LSTM, GRU and word averages: padding, several texts, dropout. tests/parity has their numbers."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.models.tiny import randomised, token_ids
from vljax.config import UserError, validate
from vljax.models.compute import Call, Compute
from vljax.models.encoders import GRU, LSTM, WordAverage
from vljax.models.layers.basic import ACTIVATIONS

SIZES = {"vocab_size": 23, "context_length": 8, "width": 12}
CELLS = [
    LSTM(**SIZES, word_width=5),
    LSTM(**SIZES, bidirectional=True, depth=2, pooling="mean"),
    GRU(**SIZES, bidirectional=True, depth=2),
    GRU(**SIZES, pooling="mean"),
]
ENCODERS = [*CELLS, WordAverage(**SIZES), WordAverage(**SIZES, hidden=7)]
MASK = np.arange(8) < np.array([8, 5, 1])[:, None]


def named(config):
    return f"{config.type_name}-{getattr(config, 'pooling', config.width)}"


every = pytest.mark.parametrize("config", ENCODERS, ids=named)


@functools.cache
def params_of(config):
    module, example = config.module(Compute(), "text"), config.roles(1)
    boxed = jax.eval_shape(module.init, jax.random.key(0), *example.values())["params"]
    return randomised(jax.tree.map(lambda x: x.value, boxed, is_leaf=lambda x: hasattr(x, "value")))


@functools.cache
def jitted(config, dtype=jnp.float32):
    module = config.module(Compute(dtype), "text")

    def forward(params, ids, mask, call, key):
        rngs = {"dropout": key}
        return module.apply({"params": params}, ids, mask, call, rngs=rngs)

    return jax.jit(forward)


def encode(config, ids, mask=None, call=Call(), dtype=jnp.float32, key=0):
    made = jitted(config, dtype)(params_of(config), ids, mask, call, jax.random.key(key))
    return jax.device_get(made)


@every
def test_more_padding_and_what_it_holds_change_nothing(config):
    ids = token_ids(3, 8)
    whole = encode(config, ids, MASK)
    other = encode(config, np.where(MASK, ids, (ids + 1) % 23), MASK)
    for ours, theirs in ((whole.pooled, other.pooled), (whole.tokens[MASK], other.tokens[MASK])):
        assert np.array_equal(ours, theirs)
    short = encode(config, ids[1:, :5], MASK[1:, :5])
    np.testing.assert_allclose(whole.pooled[1:], short.pooled, rtol=0, atol=1e-6)
    moved = np.abs(whole.tokens[1:, :5] - short.tokens)[MASK[1:, :5]]
    assert moved.max() < 1e-6


@every
def test_padding_may_be_anywhere(config):
    """A row with gaps is the row without them."""
    ids = token_ids(1, 8)
    real = np.array([[0, 1, 1, 0, 0, 1, 1, 0]], bool)
    packed = ids[real][None]
    gaps, dense = encode(config, ids, real), encode(config, packed)
    np.testing.assert_allclose(gaps.pooled, dense.pooled, rtol=0, atol=1e-6)
    np.testing.assert_allclose(gaps.tokens[real], dense.tokens[0], rtol=0, atol=1e-6)


@every
def test_every_word_counts(config):
    ids = token_ids(1, 8)
    alike = np.stack([np.where(np.arange(8) == k, (ids[0] + 1) % 23, ids[0]) for k in range(8)])
    moved = np.abs(encode(config, alike).pooled - encode(config, ids).pooled).max(-1)
    assert moved.min() > 1e-4


@pytest.mark.parametrize("config", CELLS, ids=named)
def test_the_order_of_words_counts_and_an_empty_text_has_a_state_of_zero(config):
    ids = token_ids(2, 8)
    empty = encode(config, ids, np.array([[True] * 8, [False] * 8]))
    assert not empty.pooled[1].any()
    assert not empty.tokens[1].any()
    assert np.abs(empty.pooled[0] - encode(config, ids[:, ::-1]).pooled[0]).max() > 1e-3


def test_without_a_backward_direction_a_state_does_not_look_ahead():
    ids = token_ids(2, 8)
    changed = np.where(np.arange(8) == 5, (ids + 1) % 23, ids)
    for config, from_start in ((CELLS[0], False), (CELLS[2], True)):
        moved = np.abs(encode(config, ids).tokens - encode(config, changed).tokens).max(-1)
        assert (moved[:, :5] > 0).all() == from_start
        assert (moved[:, 5:] > 0).all()


def test_an_average_of_words_by_its_formula():
    """Also with a hidden layer: W2 gelu(W1 x + b1) + b2 of the mean."""
    ids = token_ids(3, 8)
    for config in ENCODERS[-2:]:
        params = jax.tree.map(np.float64, params_of(config))
        words = params["embedding"][ids]
        mean = (words * MASK[..., None]).sum(1) / MASK.sum(1, keepdims=True)
        if config.hidden:
            up, down = params["mlp"]["up"], params["mlp"]["down"]
            inner = ACTIVATIONS["gelu_tanh"](jnp.asarray(mean @ up["kernel"] + up["bias"]))
            mean = np.float64(inner) @ down["kernel"] + down["bias"]
        made = encode(config, ids, MASK)
        np.testing.assert_allclose(made.pooled, mean, rtol=0, atol=2e-6)
        np.testing.assert_allclose(made.tokens, words, rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    "config",
    [LSTM(**SIZES, depth=2, dropout=0.3), WordAverage(**SIZES, dropout=0.3)],
    ids=named,
)
def test_several_texts_of_an_example_are_encoded_one_by_one(config):
    """Dropout too is that of each text's row, wherever the batch is computed."""
    call = Call(train=True, example_index=jnp.array([4, 1]))
    ids = token_ids(6, 8).reshape(2, 3, 8)
    mask = np.arange(8) < np.array([[8, 5, 2], [7, 8, 3]])[..., None]
    together = encode(config, ids, mask, call)
    assert together.tokens.shape == (6, 8, 12)
    for k in range(3):
        own = Call(train=True, example_index=call.example_index * 3 + k)
        alone = encode(config, ids[:, k], mask[:, k], own)
        for ours, theirs in zip(together[:3], alone[:3], strict=True):
            np.testing.assert_allclose(ours[k::3], theirs, rtol=0, atol=1e-6)
    other = encode(config, ids, mask, call, key=1)
    evaluated = encode(config, ids, mask)
    for made in (other, evaluated):
        assert np.abs(made.pooled - together.pooled).max() > 1e-3


@every
def test_gradients_are_finite_and_reach_every_parameter_in_bfloat16(config):
    ids, mask = jnp.asarray(token_ids(3, 8)), jnp.asarray(MASK)
    module = config.module(Compute(jnp.bfloat16), "text")

    def loss(params):
        made = module.apply({"params": params}, ids, mask)
        assert (made.tokens.dtype, made.pooled.dtype) == (jnp.bfloat16, jnp.bfloat16)
        return jnp.sum(jnp.square(made.pooled.astype(jnp.float32)))

    for path, gradient in jax.tree.leaves_with_path(jax.jit(jax.grad(loss))(params_of(config))):
        assert np.isfinite(gradient).all(), path
        assert np.abs(gradient).max() > 0, path


@pytest.mark.parametrize("config", CELLS, ids=named)
def test_bfloat16_is_near_float32(config):
    """Sums of states are in float32: eight steps lose no more than the products do."""
    ids = token_ids(3, 8)
    wide, narrow = encode(config, ids, MASK), encode(config, ids, MASK, dtype=jnp.bfloat16)
    assert np.abs(wide.pooled - np.float32(narrow.pooled)).max() < 0.03


def test_a_sequence_that_is_too_long_is_refused():
    for config in ENCODERS:
        with pytest.raises(ValueError, match=r"^9 tokens do not fit a context of 8"):
            encode(config, token_ids(2, 9))


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (LSTM(**{**SIZES, "vocab_size": 0}), "vocab_size: must be at least 1, not 0"),
        (GRU(**{**SIZES, "context_length": 0}), "context_length: must be at least 1, not 0"),
        (GRU(**SIZES, depth=0), "depth: must be at least 1, not 0"),
        (LSTM(**SIZES, word_width=0), "word_width: must be at least 1, not 0"),
        (
            LSTM(**{**SIZES, "width": 7}, bidirectional=True),
            "width: must be even for two directions, not 7",
        ),
        (LSTM(**SIZES, dropout=1.0), r"dropout: must be in \[0, 1\), not 1.0"),
        (WordAverage(**SIZES, hidden=0), "hidden: must be at least 1, not 0"),
        (WordAverage(**SIZES, dropout=-0.1), r"dropout: must be in \[0, 1\), not -0.1"),
    ],
)
def test_a_bad_value_is_named(config, message):
    with pytest.raises(UserError, match=f"^{message}$"):
        validate(config)
