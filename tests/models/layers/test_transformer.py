from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from jax._src.ad_checkpoint import saved_residuals

from tests.models import reference
from tests.models.tiny import STACK, float64, text, token_ids, tower
from vljax.config import UserError, decode, validate
from vljax.models.compute import Call, Compute
from vljax.models.layers.transformer import TransformerConfig, transformer
from vljax.models.parameters import roll, unroll

LAYOUTS = pytest.mark.parametrize("scan", [True, False], ids=["scanned", "unrolled"])


class Stack(nn.Module):
    config: TransformerConfig

    @nn.compact
    def __call__(self, x: jax.Array, call: Call = Call()) -> jax.Array:
        return transformer(x, None, self.config, Compute(), call=call)


# --- Options --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"depth": 0}, "depth: must be at least 1, not 0"),
        ({"mlp_dim": -3}, "mlp_dim: must be at least 1, not -3"),
        ({"heads": 5}, "heads: 5 heads do not divide the width 32; 4 would"),
        ({"heads": 64}, "heads: 64 heads do not divide the width 32; 32 would"),
        ({"dropout": 1.0}, r"dropout: must be in \[0, 1\), not 1.0"),
        ({"drop_path": -0.1}, r"drop_path: must be in \[0, 1\), not -0.1"),
        ({"norm_epsilon": 0.0}, "norm_epsilon: must be above 0, not 0.0"),
    ],
)
def test_a_bad_value_is_named(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=f"^{message}"):
        validate(TransformerConfig(**{**STACK, **fields}))


def test_an_unknown_activation_is_named() -> None:
    with pytest.raises(UserError, match=r"^activation: unknown value 'gelu_tan'; .*'gelu_tanh'"):
        decode(TransformerConfig, {**STACK, "activation": "gelu_tan"})


@pytest.mark.parametrize("field", ["width", "heads"])
def test_zero_width_or_heads_are_named_too(field: str) -> None:
    with pytest.raises(UserError, match=f"^{field}: must be at least 1, not 0"):
        validate(TransformerConfig(**{**STACK, field: 0}))


def test_a_good_config_passes() -> None:
    config = TransformerConfig(**STACK, dropout=0.5, drop_path=0.99)
    assert validate(config) == config


# --- Scanned and unrolled -------------------------------------------------------------------------


def test_scanned_equals_unrolled() -> None:
    """Forward to 3e-6 and gradients to 2e-6 of their largest: only the order of sums may differ."""
    config = text(depth=3, pooling="mean")
    scanned, unrolled = tower(config), tower(dataclasses.replace(config, scan=False))
    ids = jnp.asarray(token_ids(2, 8))
    np.testing.assert_allclose(scanned(ids).tokens, unrolled(ids).tokens, rtol=0, atol=3e-6)

    def gradient(model: Any) -> Any:
        def loss(params: Any) -> jax.Array:
            return jnp.sum(jnp.sin(model.forward.__wrapped__(params, ids).tokens))

        return jax.jit(jax.grad(loss))(model.params)

    ours, theirs = unroll(gradient(scanned)), gradient(unrolled)
    assert jax.tree.structure(ours) == jax.tree.structure(theirs)
    # One scale for all arrays: the gradient of the key's bias is zero but for rounding.
    scale = max(float(jnp.abs(leaf).max()) for leaf in jax.tree.leaves(theirs))
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=2e-6 * scale)


def test_scanned_blocks_start_different_and_as_wide_as_unrolled_ones() -> None:
    """The layers axis is no fan: Xavier's limit is that of one block."""
    config = TransformerConfig(**{**STACK, "depth": 3})
    init = jax.jit(lambda key: Stack(config).init(key, jnp.zeros((1, 2, 32))))
    params = nn.meta.unbox(init(jax.random.key(0))["params"])
    up = np.asarray(params["blocks"]["mlp"]["up"]["kernel"])
    assert up.shape == (3, 32, 40)
    limit = np.sqrt(6 / (32 + 40))
    for kernel in up:
        assert 0.99 * limit < np.abs(kernel).max() <= limit
    assert not np.array_equal(up[0], up[1])
    assert not np.array_equal(up[1], up[2])


@pytest.mark.parametrize("activation", ["gelu", "gelu_tanh", "quick_gelu"])
def test_stack_is_the_papers_formula(activation: str) -> None:
    """Measured deviation from float64: at most 1.2e-6, on values up to 3.2."""
    config = text(activation=activation, norm_epsilon=1e-3)
    model, ids = tower(config), token_ids(2, 8)
    tokens, _ = reference.text(float64(model.params), ids, np.ones((2, 8), bool), config)
    np.testing.assert_allclose(model(ids).tokens, tokens, rtol=0, atol=5e-6)


# --- Dropout and drop path ------------------------------------------------------------------------

WIDTH = 16
UNTOUCHED, ONE = WIDTH - 1, WIDTH - 2


def branches(config: TransformerConfig, biases: dict[tuple[int, str], np.ndarray]) -> Any:
    """Parameters with which a branch adds a constant: kernels of zero, `biases` on the outputs."""
    boxed = jax.eval_shape(Stack(config).init, jax.random.key(0), jnp.zeros((1, 1, 16)))
    params = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), nn.meta.unbox(boxed["params"]))
    params["norm"]["scale"] += 1
    params = unroll(params)
    for (layer, branch), bias in biases.items():
        block = params["blocks"][str(layer)]
        part = block["attention"]["output"] if branch == "attention" else block["mlp"]["down"]
        part["bias"] = np.asarray(bias, np.float32)
    return roll(params) if config.scan else params


def residuals(config: TransformerConfig, params: Any, batch: int) -> np.ndarray:
    """What the branches added up to, [batch, width], in training.

    The final norm only shifts and scales an example: two coordinates that no branch touches, set to
    0 and 1, give shift and scale away.
    """
    x = jnp.zeros((batch, 1, WIDTH)).at[:, :, ONE].set(1.0)
    forward = jax.jit(
        lambda params, x, key: Stack(config).apply(
            {"params": params}, x, Call(train=True), rngs={"dropout": key}
        )
    )
    y = np.asarray(forward(params, x, jax.random.key(0)), np.float64)[:, 0]
    zero, one = y[:, UNTOUCHED, None], y[:, ONE, None]
    return (y - zero) / (one - zero)


@LAYOUTS
def test_drop_path_rises_linearly_and_scales_what_stays(scan: bool) -> None:
    """Huang et al. 2016, section 3: from 0 in the first block to the full rate in the last."""
    sizes = {"width": WIDTH, "depth": 3, "heads": 2, "mlp_dim": 4, "scan": scan}
    config = TransformerConfig(**sizes, drop_path=0.4)
    places = [(layer, branch) for layer in range(3) for branch in ("attention", "mlp")]
    one_hot = np.eye(WIDTH)
    # Two coordinates each, which are dropped together.
    biases = {place: one_hot[i] + one_hot[i + 6] for i, place in enumerate(places)}
    batch = 4000
    added, twins = np.split(residuals(config, branches(config, biases), batch)[:, :12], 2, axis=1)
    np.testing.assert_allclose(added, twins, rtol=0, atol=1e-4)
    dropped = np.abs(added) < 1e-4
    for i, (layer, _) in enumerate(places):
        rate = [0, 0.2, 0.4][layer]
        sigma = np.sqrt(rate * (1 - rate) / batch)
        assert dropped[:, i].mean() == pytest.approx(rate, abs=4 * sigma), places[i]
        np.testing.assert_allclose(added[~dropped[:, i], i], 1 / (1 - rate), rtol=1e-4)
    # Branches are dropped independently: both of the last block in 0.16 of the examples.
    both = np.mean(dropped[:, 4] & dropped[:, 5])
    assert both == pytest.approx(0.16, abs=4 * np.sqrt(0.16 * 0.84 / batch))


@LAYOUTS
def test_dropout_acts_on_every_branch_independently(scan: bool) -> None:
    """Four branches add 1, 2, 4 and 8 to one coordinate: the sum tells which were kept."""
    sizes = {"width": WIDTH, "depth": 2, "heads": 2, "mlp_dim": 4, "scan": scan}
    config = TransformerConfig(**sizes, dropout=0.5)
    places = [(layer, branch) for layer in range(2) for branch in ("attention", "mlp")]
    biases = {place: 2.0**i * np.eye(WIDTH)[0] for i, place in enumerate(places)}
    batch = 4000
    kept = residuals(config, branches(config, biases), batch)[:, 0] * 0.5
    np.testing.assert_allclose(kept, np.round(kept), rtol=0, atol=1e-3)
    counts = np.bincount(np.round(kept).astype(int), minlength=16)
    # All 16 subsets have probability 1/16: 250 of 4,000 with a sigma of 15.3.
    assert counts.shape == (16,)
    assert np.abs(counts - 250).max() < 4.5 * 15.3


def program(config: TransformerConfig, *, train: bool) -> str:
    """What XLA is given for a forward and backward pass."""
    stack = Stack(config)
    x = jnp.zeros((2, 3, config.width))
    params = jax.eval_shape(stack.init, jax.random.key(0), x)

    def loss(params: Any, x: jax.Array, key: jax.Array) -> jax.Array:
        return jnp.sum(stack.apply(params, x, Call(train), rngs={"dropout": key}))

    return jax.jit(jax.grad(loss)).lower(params, x, jax.random.key(0)).as_text()


@LAYOUTS
def test_dropout_of_zero_is_not_in_the_program(scan: bool) -> None:
    plain = TransformerConfig(**STACK, scan=scan)
    dropping = TransformerConfig(**STACK, scan=scan, dropout=0.1, drop_path=0.1)
    expected = program(plain, train=False)
    assert program(plain, train=True) == expected
    assert program(dropping, train=False) == expected
    assert program(dropping, train=True) != expected


# --- Rematerialisation ----------------------------------------------------------------------------


def gradient_and_saved(config: TransformerConfig, x: jax.Array) -> tuple[Any, list[Any]]:
    """The gradient, and shapes and types of what the forward pass keeps for it."""
    stack = Stack(config)
    params = stack.init(jax.random.key(0), x)
    rngs = {"dropout": jax.random.key(1)}

    def loss(params: Any) -> jax.Array:
        return jnp.sum(jnp.sin(stack.apply(params, x, Call(train=True), rngs=rngs)))

    kept = saved_residuals(loss, params)
    return jax.jit(jax.grad(loss))(params), [aval for aval, _ in kept]


@LAYOUTS
def test_rematerialisation_saves_less_and_changes_nothing(scan: bool) -> None:
    """Offloading is left out: without a host memory space of its own, CPU cannot run it."""
    x = jnp.asarray(np.random.default_rng(0).standard_normal((4, 16, 32)), jnp.float32)
    base = TransformerConfig(**{**STACK, "mlp_dim": 128}, scan=scan, dropout=0.1)
    gradients, everything = gradient_and_saved(base, x)
    largest = max(float(jnp.abs(g).max()) for g in jax.tree.leaves(gradients))
    sizes = {"none": sum(a.size for a in everything)}
    for remat in ("full", "save", "dots"):
        ours, saved = gradient_and_saved(dataclasses.replace(base, remat=remat), x)
        sizes[remat] = sum(a.size for a in saved)
        for one, other in zip(jax.tree.leaves(ours), jax.tree.leaves(gradients), strict=True):
            np.testing.assert_allclose(one, other, rtol=0, atol=2e-6 * largest)
    assert sizes["full"] < sizes["save"] < sizes["none"]
    assert sizes["full"] < sizes["dots"] < sizes["none"]


def test_only_the_named_intermediates_are_saved() -> None:
    x = jnp.ones((4, 16, 32))
    config = TransformerConfig(**STACK, scan=False, remat="save", remat_names=("mlp_hidden",))
    saved = [a.shape for a in gradient_and_saved(config, x)[1]]
    assert saved.count((4, 16, 40)) == config.depth
    assert (4, 16, 4, 8) not in saved  # queries, keys, values


def test_an_unknown_name_to_save_is_named() -> None:
    config = TransformerConfig(**STACK, remat="save", remat_names=("mlp_hiden",))
    with pytest.raises(UserError, match=r"^remat_names: unknown name 'mlp_hiden'.*'mlp_hidden'"):
        validate(config)
