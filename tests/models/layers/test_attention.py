from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.linen import meta

from tests.models import reference
from tests.models.layers import stacks
from tests.models.tiny import float64, text, token_ids, tower
from vljax.models.compute import Call, Compute
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


@pytest.mark.parametrize("scan", [True, False], ids=["scanned", "unrolled"])
def test_weights_for_plots(scan: bool) -> None:
    """Those of each block and head sum to 1, and are the softmax of float64 NumPy."""
    config = stacks.config(scan=scan, cross_attention="after_self")
    params, x = stacks.weights(config, 12), stacks.normal(2, 4, 32)
    context, mask = stacks.normal(2, 5, 12, seed=1), np.arange(4) < np.array([[4], [2]])
    stack = stacks.Stack(config, causal=True)
    rest = {"context": jnp.asarray(context), "mask": jnp.asarray(mask)}
    plain = stack.apply({"params": params}, jnp.asarray(x), **rest)
    y, sown = stack.apply(
        {"params": params},
        jnp.asarray(x),
        **rest,
        call=Call(attention=True),
        mutable="intermediates",
    )
    assert np.array_equal(y, plain)
    blocks = sown["intermediates"]["blocks"]
    for name, keys in (("attention", 4), ("cross_attention", 5)):
        stacked = [blocks] if scan else [blocks[str(i)] for i in range(config.depth)]
        weights = np.concatenate([np.asarray(block[name]["attention"][0]) for block in stacked])
        weights = weights.reshape(config.depth, 2, 4, 4, keys)
        np.testing.assert_allclose(weights.sum(-1), 1, rtol=0, atol=1e-6)
    block = float64(params)["blocks"]["0"]
    normed = reference.layer_norm(x, block["attention_norm"], config.norm_epsilon)
    query, key = (
        np.einsum("bte,ehd->bthd", normed, block["attention"][name]["kernel"])
        + block["attention"][name]["bias"]
        for name in ("query", "key")
    )
    # With the unit vectors as values, attention gives its weights.
    value = np.broadcast_to(np.eye(4)[:, None], (2, 4, 4, 4))
    expected = np.moveaxis(reference.attend(query, key, value, mask, causal=True), 1, 2)
    ours = (
        blocks["attention"]["attention"][0][0] if scan else blocks["0"]["attention"]["attention"][0]
    )
    np.testing.assert_allclose(ours, expected, rtol=0, atol=1e-6)


def test_weights_of_attention_pooling() -> None:
    config = text(pooling="map")
    model, ids = tower(config), token_ids(2, 8)
    apply = config.module(Compute(), "text").apply
    options = {"call": Call(attention=True), "mutable": "intermediates"}
    _, sown = apply({"params": model.params}, jnp.asarray(ids), **options)
    weights = sown["intermediates"]["pooling"]["attention"]["attention"][0]
    assert weights.shape == (2, 4, 1, 8)
