from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from tests.models import reference
from vljax.models.compute import Compute
from vljax.models.layers.basic import BatchNorm, GroupNorm, layer_norm


def normal(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def test_layer_norm_far_from_zero() -> None:
    """The variance is taken after the mean is gone: E[x^2] - E[x]^2 would lose it at 1,000 +- 1."""
    x = normal(4, 32) + 1000
    params = {"scale": jnp.asarray(normal(32, seed=1)), "bias": jnp.asarray(normal(32, seed=2))}
    module = layer_norm(Compute(), 1e-6, "norm")
    ours = module.apply({"params": params}, jnp.asarray(x))
    theirs = reference.layer_norm(x.astype(np.float64), params, 1e-6)
    # float32 holds the mean to 6e-5 of a value near 1000; scales are up to 3.
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=3e-4)


def test_layer_norm_epsilon_is_added_to_the_variance() -> None:
    x = 0.1 * normal(4, 32)
    params = {"scale": jnp.ones(32), "bias": jnp.zeros(32)}
    ours = layer_norm(Compute(), 0.5, "norm").apply({"params": params}, jnp.asarray(x))
    theirs = reference.layer_norm(x.astype(np.float64), params, 0.5)
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-7)


def test_batch_norm_normalises_by_the_batch_and_moves_its_statistics():
    x = 3 + 2 * jax.random.normal(jax.random.key(1), (4, 5, 5, 3))
    module = BatchNorm(Compute(), 1e-3, 0.9)
    variables = module.init(jax.random.key(0), x, update=False)
    y, moved = module.apply(variables, x, update=True, mutable=["batch_stats"])
    wide = np.float64(x)
    mean, variance = wide.mean((0, 1, 2)), wide.var((0, 1, 2))
    np.testing.assert_allclose(y, (wide - mean) / np.sqrt(variance + 1e-3), atol=2e-6)
    np.testing.assert_allclose(moved["batch_stats"]["mean"], 0.1 * mean, rtol=1e-5)
    np.testing.assert_allclose(moved["batch_stats"]["variance"], 0.9 + 0.1 * variance, rtol=1e-5)


def test_without_update_the_stored_statistics_count_and_stay():
    x = jax.random.normal(jax.random.key(1), (4, 5, 5, 3))
    module = BatchNorm(Compute(), 1e-3, 0.9)
    params = module.init(jax.random.key(0), x, update=False)["params"]
    stored = {"mean": jnp.array([1.0, 2.0, 3.0]), "variance": jnp.array([4.0, 5.0, 6.0])}
    given = {"params": params, "batch_stats": stored}
    y, after = module.apply(given, x, update=False, mutable=["batch_stats"])
    wanted = (np.float64(x) - stored["mean"]) / np.sqrt(stored["variance"] + 1e-3)
    np.testing.assert_allclose(y, wanted, atol=2e-6)
    assert jax.tree.all(jax.tree.map(np.array_equal, dict(after["batch_stats"]), stored))


def test_group_norm_takes_neighbouring_channels_of_one_image() -> None:
    x = normal(2, 3, 4, 6) + 100
    scale, bias = normal(6, seed=1), normal(6, seed=2)
    params = {"scale": jnp.asarray(scale), "bias": jnp.asarray(bias)}
    y = GroupNorm(Compute(), 1e-5, 3).apply({"params": params}, jnp.asarray(x))
    wide = np.float64(x).reshape(2, 3, 4, 3, 2)
    mean, variance = (f(wide, (1, 2, 4), keepdims=True) for f in (np.mean, np.var))
    wanted = ((wide - mean) / np.sqrt(variance + 1e-5)).reshape(x.shape) * scale + bias
    # float32 holds the mean to 4e-6 of a value near 100.
    np.testing.assert_allclose(y, wanted, rtol=0, atol=3e-5)
