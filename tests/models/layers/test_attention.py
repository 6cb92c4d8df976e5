from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from flax.linen import meta

from tests.models import reference
from vljax.models.compute import Compute
from vljax.models.layers.attention import Attention


def normal(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def test_attention_to_a_context_of_another_width() -> None:
    x, context = normal(3, 4, 16), normal(3, 5, 12, seed=1)
    module = Attention(16, 2, Compute())
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
