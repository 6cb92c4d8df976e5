from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.linen import meta

from vljax.models.compute import Compute
from vljax.models.layers.basic import Linear


def normal(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def test_linear_contracts_the_last_axes() -> None:
    x = normal(2, 3, 4, 5)
    module = Linear((6, 7), ("heads", "head_dim", "embed", "none"), Compute(), inputs=2)
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
    module = Linear((6,), ("embed", "none"), Compute(), use_bias=False)
    variables = jax.eval_shape(module.init, jax.random.key(0), jnp.ones((1, 4)))
    assert set(variables["params"]) == {"kernel"}


@pytest.mark.parametrize(
    ("features", "inputs", "shape"), [((16, 8), 1, (96,)), ((96,), 2, (16, 8))]
)
def test_linear_starts_xavier_uniform_over_all_axes(
    features: tuple[int, ...], inputs: int, shape: tuple[int, ...]
) -> None:
    """Glorot & Bengio 2010, eq. 16: uniform within sqrt(6 / (fan_in + fan_out))."""
    module = Linear(features, ("none",) * 3, Compute(), inputs)
    init = jax.jit(lambda key: meta.unbox(module.init(key, jnp.ones((1, *shape)))["params"]))
    params = init(jax.random.key(0))
    limit = math.sqrt(6 / (96 + 128))
    kernel = np.asarray(params["kernel"])
    assert np.abs(kernel).max() <= limit
    assert np.abs(kernel).max() > 0.999 * limit
    # The deviation of 12,288 uniform values is known to 0.6 % (one sigma 0.4 %; 3 sigma allowed).
    assert kernel.std() == pytest.approx(limit / math.sqrt(3), rel=0.012)
    assert not params["bias"].any()
