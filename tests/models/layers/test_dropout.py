from __future__ import annotations

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vljax.models.compute import Call
from vljax.models.layers.basic import Dropout

TRAIN = Call(train=True)


def normal(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


@functools.partial(jax.jit, static_argnames="whole")
def drop(x: jax.Array, rate: float | jax.Array, seed: int = 0, whole: bool = False) -> jax.Array:
    module = Dropout(whole_examples=whole)
    return module.apply({}, x, rate, TRAIN, rngs={"dropout": jax.random.key(seed)})


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


def test_only_training_drops() -> None:
    x = jnp.asarray(normal(3, 4, 5))
    assert np.array_equal(Dropout().apply({}, x, 0.5, Call()), x)


@pytest.mark.parametrize("whole", [False, True])
def test_dropout_of_a_row_does_not_depend_on_the_batch(whole: bool) -> None:
    x = jnp.asarray(normal(64, 3, 4))
    assert np.array_equal(drop(x, 0.5, whole=whole)[:5], drop(x[:5], 0.5, whole=whole))


def test_dropout_depends_on_the_index_in_the_global_batch() -> None:
    x = jnp.asarray(normal(64, 3, 4))
    index = jnp.array([40, 3, 63])
    module, rngs = Dropout(), {"dropout": jax.random.key(0)}
    assert np.array_equal(
        module.apply({}, x[index], 0.5, Call(True, index), rngs=rngs), drop(x, 0.5)[index]
    )


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
