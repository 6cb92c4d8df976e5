"""Filters of streams against their formulas, in any model."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.linen import meta

from tests.models import tiny
from vljax import config
from vljax.config import UserError
from vljax.models.assembly import ModelConfig, Variables, build, example_batch
from vljax.models.compute import Call, Compute
from vljax.models.filters import Gate, ModalityDropout, modulated
from vljax.models.heads import Embedding
from vljax.models.node import Encoded
from vljax.overrides import override

ROWS, LENGTH, WIDTH = 6, 5, 32


def stream(seed=0, rows=ROWS, *, pooled=True):
    rng = np.random.default_rng(seed)
    mask = np.arange(LENGTH) < rng.integers(1, LENGTH + 1, (rows, 1))
    tokens = rng.normal(size=(rows, LENGTH, WIDTH)).astype(np.float32)
    vector = rng.normal(size=(rows, WIDTH)).astype(np.float32) if pooled else None
    return Encoded(*(None if x is None else jnp.asarray(x) for x in (tokens, mask, vector)))


def gated(given, params=None):
    module = Gate().module(Compute(), "gate")
    if params is None:
        boxed = jax.eval_shape(module.init, jax.random.key(0), given, Call())
        params = tiny.randomised(meta.unbox(boxed["params"]))
    return module.apply({"params": params}, given, Call()), params


@pytest.mark.parametrize("pooled", [True, False])
def test_a_gate_is_the_formula(pooled):
    given = stream(pooled=pooled)
    found, params = gated(given)
    w, b = (np.asarray(params["gate"][name], np.float64) for name in ("kernel", "bias"))
    tokens, mask = np.asarray(given.tokens, np.float64), np.asarray(given.mask)
    own = [row[m].mean(0) for row, m in zip(tokens, mask, strict=True)]
    vector = np.asarray(given.pooled, np.float64) if pooled else np.stack(own)
    gate = 1 / (1 + np.exp(-(vector @ w + b + 2)))
    np.testing.assert_allclose(found.tokens, tokens * gate[:, None], rtol=1e-5, atol=1e-6)
    if pooled:
        np.testing.assert_allclose(found.pooled, vector * gate, rtol=1e-5, atol=1e-6)
    else:
        assert found.pooled is None
        other = jnp.where(given.mask[..., None], given.tokens, 7.0)  # padding does not matter
        again, _ = gated(given._replace(tokens=other), params)
        np.testing.assert_array_equal(again.tokens[mask], found.tokens[mask])


def dropped(rate, call, given):
    module = ModalityDropout(rate).module(Compute(), "dropout")
    return module.apply({}, given, call, rngs={"dropout": jax.random.key(0)})


def test_modality_dropout_takes_whole_examples_by_their_index():
    given = stream(rows=400)
    found = dropped(0.3, Call(train=True), given)
    gone = np.asarray(found.tokens == 0).all((1, 2))
    assert abs(gone.mean() - 0.3) < 0.07  # three standard deviations
    np.testing.assert_array_equal(gone, np.asarray(found.pooled == 0).all(1))
    np.testing.assert_array_equal(found.tokens[~gone], given.tokens[~gone])
    np.testing.assert_array_equal(found.mask, given.mask)
    # Examples in another order and number keep their draw.
    chosen = np.array([7, 3, 399])
    part = jax.tree.map(lambda x: x[chosen], given)
    again = dropped(0.3, Call(train=True, example_index=jnp.asarray(chosen)), part)
    np.testing.assert_array_equal(again.tokens, found.tokens[chosen])
    # Two texts of each image are drawn one by one.
    halves = Call(train=True, example_index=jnp.arange(200))
    np.testing.assert_array_equal(dropped(0.3, halves, given).tokens, found.tokens)
    np.testing.assert_array_equal(dropped(0.3, Call(), given).tokens, given.tokens)


def test_what_is_not_finite_is_dropped_too():
    given = stream(rows=40)
    broken = given._replace(tokens=jnp.full_like(given.tokens, jnp.nan))
    found = dropped(0.5, Call(train=True), broken)
    gone = np.asarray(found.pooled == 0).all(1)
    assert gone.any()
    assert not np.asarray(found.tokens[gone]).any()


HEAD = Embedding(8, {"image": "linear", "text": "linear"})
NODES = {"image": tiny.vit(depth=1), "text": tiny.text(depth=1), "embedding": HEAD}


def made(filters):
    """The model, its parameters and a batch."""
    model = build(ModelConfig(NODES, filters), Compute())
    shapes = model.shapes.params
    params = tiny.randomised({name: shapes[name] for name in NODES})  # the same with any filter
    params |= tiny.randomised({name: shapes[name] for name in shapes if name not in NODES})
    batch = {"image": tiny.images(4, 16, 16), "text": tiny.token_ids(4, 8)}
    batch["text_mask"] = np.ones((4, 8), bool)
    batch, params = jax.tree.map(jnp.asarray, (batch, params))
    variables = Variables(params, {})
    return model, variables, batch


def outputs(filters):
    model, variables, batch = made(filters)
    return model, variables, jax.jit(lambda v, b: model.apply(v, b)[0])(variables, batch)


def test_a_filter_changes_the_stream_for_all_that_read_it():
    *_, plain = outputs({})
    model, variables, found = outputs({"image": Gate()})
    gate = {"kernel": ("embed", "none"), "bias": ("none",)}
    assert model.axes["filter_image"] == {"gate": gate}
    params = variables.params["filter_image"]
    own = Encoded(plain["image/tokens"], plain["image/mask"], plain["image/pooled"])
    expected, _ = gated(own, params)
    np.testing.assert_allclose(found["image/pooled"], expected.pooled, rtol=1e-6)
    assert not np.allclose(found["image/embedding"], plain["image/embedding"], atol=1e-3)
    np.testing.assert_array_equal(found["text/embedding"], plain["text/embedding"])
    # A stream that is given is not filtered again.
    given = {"image/pooled": found["image/pooled"]}
    again, _ = model.apply(variables, {}, given=given, want=["image/embedding"])
    np.testing.assert_allclose(again["image/embedding"], found["image/embedding"], rtol=1e-6)


def test_the_program_without_filters_is_the_same():
    """Also that of modality dropout in evaluation, and with a rate of 0 in training."""

    def program(filters, call):
        model, variables, batch = made(filters)
        want = ["text/embedding"]
        apply = jax.jit(lambda v, b: model.apply(v, b, call, want=want)[0])
        return apply.lower(variables, batch).as_text()

    train = Call(train=True, key=jax.random.key(0))
    assert program({"text": ModalityDropout(0.5)}, Call()) == program({}, Call())
    assert program({"text": ModalityDropout(0.0)}, train) == program({}, train)
    assert program({"text": ModalityDropout(0.5)}, train) != program({}, train)


def test_filters_are_set_on_the_command_line_and_checked():
    changed = override(
        ModelConfig(NODES), ["--filters.+text", "modality_dropout", "--filters.+text.rate", "0.25"]
    )
    assert changed.filters == {"text": ModalityDropout(0.25)}
    config.validate(changed)
    assert "filter_text" not in build(changed, Compute()).shapes.params
    wrong = dataclasses.replace(changed, filters={"txt": Gate()})
    with pytest.raises(UserError, match="no node makes the stream 'txt'; did you mean 'text'"):
        config.validate(wrong)
    with pytest.raises(UserError, match=r"must be in \[0, 1\), not 1"):
        config.validate(dataclasses.replace(changed, filters={"text": ModalityDropout(1.0)}))
    named = ModelConfig({**NODES, "filter_text": HEAD}, {"text": Gate()})
    assert any("is the name of a filter" in message for _, message in named.problems())
    assert "text" in example_batch(changed)


def test_a_modulated_gradient_is_the_formula():
    x = np.random.default_rng(0).normal(size=(50, 40)).astype(np.float32)
    g = np.random.default_rng(1).normal(size=x.shape)
    keys = jax.random.split(jax.random.key(3), len(x))

    def pulled(noise, dtype=jnp.float32):
        inputs = jnp.float32(0.25), jnp.float32(noise), keys
        value, pull = jax.vjp(lambda x: modulated(x, *inputs), jnp.asarray(x, dtype))
        np.testing.assert_array_equal(value, jnp.asarray(x, dtype))
        return np.asarray(pull(jnp.asarray(g, dtype))[0], np.float64)

    np.testing.assert_allclose(pulled(0), 0.25 * g, rtol=1e-6)
    drawn = np.stack([jax.random.normal(key, (40,)) for key in keys]).astype(np.float64)
    np.testing.assert_allclose(pulled(2), 0.25 * g + 2 * g.std() * drawn, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(pulled(2, jnp.bfloat16), pulled(2), rtol=0.02, atol=0.05)
