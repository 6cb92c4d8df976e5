"""Decoding with a cache of keys and values, against the causal pass over the whole sequence."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.models.layers.stacks import Stack, config, normal, weights
from vljax.models.compute import Compute
from vljax.models.layers.attention import Attention
from vljax.models.layers.transformer import TransformerConfig, empty_cache

CONFIGS = {
    "scanned": config(),
    "unrolled": config(scan=False),
    "post-norm": config(post_norm=True),
    "unrolled, post-norm": config(post_norm=True, scan=False),
    "context": config(cross_attention="after_self"),
    "context of every other block": config(
        cross_attention="before_self", cross_every=2, depth=4, scan=False
    ),
}
all_configs = pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
LENGTH, CAPACITY = 7, 10


def prepared(config: TransformerConfig) -> tuple[Any, Any, Any, dict[str, Any]]:
    """The compiled stack, its parameters, tokens, and the context."""
    context = {"context": jnp.asarray(normal(2, 5, 12, seed=1))}
    context = {} if config.cross_attention == "none" else context
    variables = {"params": weights(config, 12 if context else None)}
    stack = Stack(config, causal=True)
    return jax.jit(stack.apply), variables, jnp.asarray(normal(2, LENGTH, 32)), context


@all_configs
def test_decoding_is_the_causal_pass(config: TransformerConfig) -> None:
    """Token by token and in chunks, to 2e-6 of the largest value; one program for all steps."""
    apply, variables, x, context = prepared(config)
    whole = apply(variables, x, **context)
    for chunks in ([1] * LENGTH, [3, 2, 2]):
        cache, start, parts = empty_cache(config, 2, CAPACITY, jnp.float32), 0, []
        step = jax.jit(Stack(config, causal=True).apply)
        for i, size in enumerate(chunks):
            first = context if i == 0 else {}
            part, cache = step(variables, x[:, start : start + size], None, cache=cache, **first)
            parts.append(part)
            start += size
        decoded = jnp.concatenate(parts, 1)
        np.testing.assert_allclose(decoded, whole, rtol=0, atol=2e-6 * np.abs(whole).max())
        assert np.array_equal(cache.length, [LENGTH, LENGTH])
        # With a context, the first step is another program: its cache has none yet.
        programs = {(size, i == 0 and bool(context)) for i, size in enumerate(chunks)}
        assert step._cache_size() == len(programs)


def test_prompts_of_different_lengths() -> None:
    """Padding of a prompt is not seen by later tokens, which are written over it."""
    config = CONFIGS["scanned"]
    apply, variables, x, _ = prepared(config)
    lengths = np.array([4, 2])
    mask = jnp.asarray(np.arange(4) < lengths[:, None])
    cache = empty_cache(config, 2, CAPACITY, jnp.float32)
    prompt, cache = apply(variables, x[:, :4], mask, cache=cache)
    assert np.array_equal(cache.length, lengths)
    whole = apply(variables, x)
    np.testing.assert_allclose(prompt[mask], whole[:, :4][mask], rtol=0, atol=5e-6)
    for step in range(3):
        at = lengths + step
        token = jnp.stack([row[i] for row, i in zip(x, at, strict=True)])[:, None]
        y, cache = apply(variables, token, None, cache=cache)
        expected = np.stack([row[i] for row, i in zip(whole, at, strict=True)])
        np.testing.assert_allclose(y[:, 0], expected, rtol=0, atol=5e-6)


def test_rows_are_on_the_second_axis() -> None:
    """As beam search needs it: rows of the cache in another order continue other prompts."""
    config = CONFIGS["context"]
    apply, variables, x, context = prepared(config)
    cache = empty_cache(config, 2, CAPACITY, jnp.float32)
    _, cache = apply(variables, x[:, :3], None, cache=cache, **context)
    swapped = jax.tree.map(lambda leaf: leaf[:, ::-1], cache)
    ours, _ = apply(variables, x[::-1, 3:4], None, cache=swapped)
    theirs, _ = apply(variables, x[:, 3:4], None, cache=cache)
    np.testing.assert_allclose(ours[::-1], theirs, rtol=0, atol=2e-6)


def test_a_prefix_may_attend_to_all_of_itself() -> None:
    """Without causal order, new tokens see each other, and no empty entry."""
    config = CONFIGS["unrolled"]
    _, variables, x, _ = prepared(config)
    apply = Stack(config).apply
    ours, _ = apply(variables, x, None, cache=empty_cache(config, 2, CAPACITY, jnp.float32))
    np.testing.assert_allclose(ours, apply(variables, x), rtol=0, atol=5e-6)


def test_a_cache_has_the_type_that_is_asked_for() -> None:
    config = CONFIGS["scanned"]
    apply, variables, x, _ = prepared(config)
    cache = empty_cache(config, 2, CAPACITY, jnp.bfloat16)
    y, cache = apply(variables, x, None, cache=cache)
    assert (y.dtype, cache.tokens.key.dtype) == (jnp.float32, jnp.bfloat16)
    np.testing.assert_allclose(y, apply(variables, x), rtol=0, atol=0.1)


def test_a_context_is_projected_once() -> None:
    attention, x = Attention(16, 2, Compute()), jnp.asarray(normal(2, 3, 16))
    context = jnp.asarray(normal(2, 4, 12, seed=1))
    variables = attention.init(jax.random.key(0), x, context)
    projected = attention.apply(variables, context, method="project")
    assert projected.key.shape == projected.value.shape == (2, 4, 2, 8)
    assert np.array_equal(projected.length, [4, 4])
    ours, theirs = (attention.apply(variables, x, given) for given in (projected, context))
    assert np.array_equal(ours, theirs)


def test_a_cache_takes_no_mask_by_queries() -> None:
    stack, cache = Stack(CONFIGS["scanned"]), empty_cache(CONFIGS["scanned"], 1, 4, jnp.float32)
    x, mask = jnp.ones((1, 2, 32)), jnp.ones((1, 2, 2), bool)
    with pytest.raises(ValueError, match="takes neither a context nor a mask by queries and keys"):
        stack.init(jax.random.key(0), x, mask, cache=cache)
