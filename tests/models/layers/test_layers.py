from __future__ import annotations

import functools
import math
import typing

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.linen import meta

from tests.models import reference
from vljax.models.compute import Compute
from vljax.models.layers import layers
from vljax.models.layers.blocks import TransformerConfig

rng = np.random.default_rng


def normal(*shape: int, seed: int = 0) -> np.ndarray:
    return rng(seed).standard_normal(shape).astype(np.float32)


# --- Activations ----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", sorted(layers.ACTIVATIONS))
def test_activation_is_its_formula(name: str) -> None:
    """To 1e-6 of values up to 6; the approximations differ from the exact one by up to 2e-2."""
    x = np.linspace(-6, 6, 1201, dtype=np.float32)
    ours = layers.ACTIVATIONS[name](jnp.asarray(x))
    theirs = reference.ACTIVATIONS[name](x.astype(np.float64))
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-6)


def test_every_activation_of_a_recipe_exists() -> None:
    hint = typing.get_type_hints(TransformerConfig)["activation"]
    assert set(typing.get_args(hint)) == {*layers.ACTIVATIONS, "swiglu"}


# --- Linear and norm ------------------------------------------------------------------------------


def test_linear_contracts_the_last_axes() -> None:
    x = normal(2, 3, 4, 5)
    module = layers.Linear((6, 7), ("heads", "head_dim", "embed", "none"), Compute(), inputs=2)
    variables = jax.eval_shape(module.init, jax.random.key(0), jnp.asarray(x))
    kernel, bias = variables["params"]["kernel"], variables["params"]["bias"]
    assert kernel.names == ("heads", "head_dim", "embed", "none")
    assert bias.names == ("embed", "none")
    values = {"kernel": normal(4, 5, 6, 7, seed=1), "bias": normal(6, 7, seed=2)}
    assert jax.tree.map(jnp.shape, meta.unbox(variables["params"])) == {
        "kernel": (4, 5, 6, 7),
        "bias": (6, 7),
    }
    ours = module.apply({"params": values}, jnp.asarray(x))
    theirs = np.einsum("btxy,xyuv->btuv", x.astype(np.float64), values["kernel"]) + values["bias"]
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=2e-5)


def test_linear_without_bias_has_none() -> None:
    module = layers.Linear((6,), ("embed", "none"), Compute(), use_bias=False)
    variables = jax.eval_shape(module.init, jax.random.key(0), jnp.ones((1, 4)))
    assert set(variables["params"]) == {"kernel"}


@pytest.mark.parametrize(
    ("features", "inputs", "shape"), [((16, 8), 1, (96,)), ((96,), 2, (16, 8))]
)
def test_linear_starts_xavier_uniform_over_all_axes(
    features: tuple[int, ...], inputs: int, shape: tuple[int, ...]
) -> None:
    """Glorot & Bengio 2010, eq. 16: uniform within sqrt(6 / (fan_in + fan_out))."""
    module = layers.Linear(features, ("none",) * 3, Compute(), inputs)
    init = jax.jit(lambda key: meta.unbox(module.init(key, jnp.ones((1, *shape)))["params"]))
    params = init(jax.random.key(0))
    limit = math.sqrt(6 / (96 + 128))
    kernel = np.asarray(params["kernel"])
    assert np.abs(kernel).max() <= limit
    assert np.abs(kernel).max() > 0.999 * limit
    # The deviation of 12,288 uniform values is known to 0.6 % (one sigma 0.4 %; 3 sigma allowed).
    assert kernel.std() == pytest.approx(limit / math.sqrt(3), rel=0.012)
    assert not params["bias"].any()


def test_layer_norm_far_from_zero() -> None:
    """The variance is taken after the mean is gone: E[x^2] - E[x]^2 would lose it at 1,000 +- 1."""
    x = normal(4, 32) + 1000
    params = {"scale": jnp.asarray(normal(32, seed=1)), "bias": jnp.asarray(normal(32, seed=2))}
    module = layers.layer_norm(Compute(), 1e-6, "norm")
    ours = module.apply({"params": params}, jnp.asarray(x))
    theirs = reference.layer_norm(x.astype(np.float64), params, 1e-6)
    # float32 holds the mean to 6e-5 of a value near 1000; scales are up to 3.
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=3e-4)


def test_layer_norm_epsilon_is_added_to_the_variance() -> None:
    x = 0.1 * normal(4, 32)
    params = {"scale": jnp.ones(32), "bias": jnp.zeros(32)}
    ours = layers.layer_norm(Compute(), 0.5, "norm").apply({"params": params}, jnp.asarray(x))
    theirs = reference.layer_norm(x.astype(np.float64), params, 0.5)
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-7)


# --- Attention ------------------------------------------------------------------------------------


def test_attention_to_a_context_of_another_width() -> None:
    x, context = normal(3, 4, 16), normal(3, 5, 12, seed=1)
    module = layers.Attention(2, Compute())
    params = {
        name: {"kernel": 0.3 * normal(width, 2, 8, seed=i), "bias": normal(2, 8, seed=i + 9)}
        for i, (name, width) in enumerate({"query": 16, "key": 12, "value": 12}.items())
    }
    params["output"] = {"kernel": 0.3 * normal(2, 8, 16, seed=5), "bias": normal(16, seed=6)}
    mask = np.arange(5) < np.array([[5], [2], [1]])
    args = jnp.asarray(x), jnp.asarray(context), jnp.asarray(mask)
    shapes = meta.unbox(jax.eval_shape(module.init, jax.random.key(0), *args)["params"])
    assert jax.tree.map(jnp.shape, shapes) == jax.tree.map(np.shape, params)
    ours = module.apply({"params": params}, *args)
    theirs = reference.attention(params, x.astype(np.float64), context, mask, causal=False)
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=5e-6)


# --- Dropout --------------------------------------------------------------------------------------


@functools.partial(jax.jit, static_argnames="whole")
def drop(x: jax.Array, rate: float | jax.Array, seed: int = 0, whole: bool = False) -> jax.Array:
    module = layers.Dropout(whole_examples=whole)
    return module.apply({}, x, rate, rngs={"dropout": jax.random.key(seed)})


@pytest.mark.parametrize("rate", [0.1, 0.5, 0.9])
def test_dropout_drops_that_share_and_scales_the_rest(rate: float) -> None:
    x = jnp.full((50, 40, 50), 3.0)
    y = np.asarray(drop(x, rate))
    dropped = y == 0
    sigma = math.sqrt(rate * (1 - rate) / y.size)
    assert dropped.mean() == pytest.approx(rate, abs=4 * sigma)
    np.testing.assert_allclose(y[~dropped], 3 / (1 - rate), rtol=3e-7)


def test_dropout_rate_zero_is_the_identity() -> None:
    x = normal(3, 4, 5)
    assert np.array_equal(drop(jnp.asarray(x), 0.0), x)


@pytest.mark.parametrize("whole", [False, True])
def test_dropout_of_a_row_does_not_depend_on_the_batch(whole: bool) -> None:
    x = jnp.asarray(normal(64, 3, 4))
    assert np.array_equal(drop(x, 0.5, whole=whole)[:5], drop(x[:5], 0.5, whole=whole))


def test_dropout_is_keyed_by_the_place_in_the_global_batch() -> None:
    x = jnp.asarray(normal(64, 3, 4))
    places = jnp.array([40, 3, 63])
    module, rngs = layers.Dropout(), {"dropout": jax.random.key(0)}
    assert np.array_equal(module.apply({}, x[places], 0.5, places, rngs=rngs), drop(x, 0.5)[places])


@pytest.mark.parametrize("whole", [False, True])
def test_dropout_differs_between_rows_and_seeds(whole: bool) -> None:
    x = jnp.ones((200, 3, 4))
    dropped = np.asarray(drop(x, 0.5, whole=whole)) == 0
    other = np.asarray(drop(x, 0.5, 1, whole=whole)) == 0
    # Two fair coins agree half of the time; 200 tosses (at least) have a sigma of 0.035.
    assert np.mean(dropped == other) == pytest.approx(0.5, abs=0.15)
    assert np.mean(dropped[1:] == dropped[:-1]) == pytest.approx(0.5, abs=0.15)


def test_drop_path_drops_whole_examples() -> None:
    y = np.asarray(drop(jnp.ones((4000, 3, 4)), 0.25, whole=True)).reshape(4000, -1)
    assert np.all(y == y[:, :1])
    sigma = math.sqrt(0.25 * 0.75 / 4000)
    assert np.mean(y[:, 0] == 0) == pytest.approx(0.25, abs=4 * sigma)


# --- Patches and positions ------------------------------------------------------------------------


@pytest.mark.parametrize(("height", "width"), [(8, 12), (11, 14)], ids=["whole", "leftover"])
def test_patchify_and_a_kernel_are_a_convolution(height: int, width: int) -> None:
    image, kernel = normal(2, height, width, 3), normal(4, 4, 3, 7, seed=1)
    patches = layers.patchify(jnp.asarray(image), 4)
    ours = jnp.tensordot(patches, kernel, 3)
    theirs = jax.lax.conv_general_dilated(
        image, kernel, (4, 4), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=2e-5)


@pytest.mark.parametrize(("rows", "columns", "width"), [(3, 5, 16), (1, 1, 8), (24, 24, 192)])
def test_sincos_positions(rows: int, columns: int, width: int) -> None:
    """float32 angles of up to 23 rad are good to 1e-6, and so was what was measured."""
    ours = layers.sincos_2d(rows, columns, width)
    theirs = reference.sincos_2d(rows, columns, width)
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=3e-6)


@pytest.mark.parametrize("width", [4, 6, 30])
def test_sincos_positions_refuse_other_widths(width: int) -> None:
    with pytest.raises(ValueError, match=rf"need a width of 8, 12, 16, \.\.\., not {width}"):
        layers.sincos_2d(2, 2, width)


def test_positions_of_the_same_grid_stay_as_they_are() -> None:
    table = jnp.asarray(normal(16, 8))
    assert layers.resample_positions(table, 4, 4) is table


@pytest.mark.parametrize("grid", [(7, 7), (2, 2), (3, 6), (9, 1)])
def test_resampling_keeps_a_constant(grid: tuple[int, int]) -> None:
    row = normal(8)
    ours = layers.resample_positions(jnp.asarray(np.tile(row, (16, 1))), *grid)
    np.testing.assert_allclose(ours, np.tile(row, (math.prod(grid), 1)), rtol=0, atol=5e-7)


@pytest.mark.parametrize("grid", [(7, 7), (2, 2), (3, 6), (12, 3), (1, 4)])
def test_resampling_is_antialiased_bilinear(grid: tuple[int, int]) -> None:
    """Against Pillow, whose bilinear filter widens when it shrinks an image."""
    table = normal(36, 8)
    ours = layers.resample_positions(jnp.asarray(table), *grid)
    np.testing.assert_allclose(ours, reference.resample(table, *grid), rtol=0, atol=1e-6)
