"""Attention of every platform, against float64 NumPy and finite differences.

That of cuDNN needs a GPU: here, `gpu_attention` is what it falls back to.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.models import reference
from vljax.models.kernels.attention.cudnn import gpu_attention
from vljax.models.kernels.attention.reference import cpu_attention, reference_attention
from vljax.models.kernels.attention.tpu import tpu_attention
from vljax.models.kernels.choose import Attention

all_ways = pytest.mark.parametrize(
    "attention", [reference_attention, cpu_attention, tpu_attention, gpu_attention]
)
MASK = np.array([[1, 1, 1, 0, 1], [0, 1, 1, 1, 0], [1, 0, 0, 0, 0]], bool)


def some_pairs(batch: int, queries: int, keys: int, seed: int = 0) -> np.ndarray:
    """A mask by queries and keys, in which a query has no key."""
    mask = np.random.default_rng(seed).random((batch, queries, keys)) < 0.6
    mask[0, 0] = False
    return mask


class Case(NamedTuple):
    """Numbers of queries and keys, and which pairs are allowed."""

    queries: int = 5
    keys: int = 5
    mask: np.ndarray | None = None
    causal: bool = False


CASES = {
    "all": Case(),
    "keys": Case(mask=MASK),
    "causal": Case(causal=True),
    "causal keys": Case(mask=MASK, causal=True),
    "pairs": Case(mask=some_pairs(3, 5, 5)),
    "causal pairs": Case(mask=some_pairs(3, 5, 5), causal=True),
    "pairs of one example for all": Case(4, 6, some_pairs(1, 4, 6)),
    "keys of one example for all": Case(mask=MASK[:1]),
    "keys by three axes": Case(mask=MASK[:, None]),
    "fewer queries": Case(2, 5, MASK),
    "more queries": Case(7, 5, some_pairs(3, 7, 5)),
    "causal, fewer queries": Case(3, 5, causal=True),
    "causal, one query": Case(1, 5, MASK, causal=True),
    "causal pairs, fewer queries": Case(2, 5, some_pairs(3, 2, 5), causal=True),
}
all_cases = pytest.mark.parametrize("case", CASES.values(), ids=CASES)


def qkv(queries: int = 5, keys: int = 5, scale: float = 1.0) -> tuple[np.ndarray, ...]:
    random = np.random.default_rng(0)
    lengths = queries, keys, keys
    return tuple((scale * random.standard_normal((3, n, 2, 8))).astype(np.float32) for n in lengths)


def device_mask(mask: np.ndarray | None) -> jax.Array | None:
    return None if mask is None else jnp.asarray(mask)


@all_ways
@all_cases
def test_values(attention: Attention, case: Case) -> None:
    args = qkv(case.queries, case.keys)
    ours = jax.jit(lambda *a: attention(*a, device_mask(case.mask), case.causal))(*args)
    theirs = reference.attend(*(x.astype(np.float64) for x in args), case.mask, case.causal)
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-6)


@all_ways
@all_cases
def test_gradients(attention: Attention, case: Case) -> None:
    """Along a random direction, against central differences of the float64 reference.

    Their error is 1e-4 squared times third derivatives; float32 leaves 1e-5 of the largest value.
    """
    mask, causal = case.mask, case.causal
    args = [x.astype(np.float64) for x in qkv(case.queries, case.keys)]
    random = np.random.default_rng(1)
    upstream = random.standard_normal(args[0].shape)

    def total(*args: Any) -> jax.Array:
        return jnp.sum(attention(*args, device_mask(mask), causal) * upstream.astype(np.float32))

    gradients = jax.jit(jax.grad(total, argnums=(0, 1, 2)))(*qkv(case.queries, case.keys))
    for i, gradient in enumerate(gradients):
        direction = random.standard_normal(args[i].shape)
        sides = []
        for sign in (1, -1):
            moved = [x + sign * 1e-4 * direction if i == j else x for j, x in enumerate(args)]
            sides.append(np.sum(reference.attend(*moved, mask, causal) * upstream))
        expected = (sides[0] - sides[1]) / 2e-4
        assert np.sum(np.asarray(gradient, np.float64) * direction) == pytest.approx(
            expected, abs=1e-4
        )


@all_ways
def test_causal_attention_needs_as_many_keys_as_queries(attention: Attention) -> None:
    with pytest.raises(ValueError, match="causal attention of 3 queries needs as many keys, not 2"):
        attention(*(jnp.asarray(x) for x in qkv(3, 2)), None, True)


@all_ways
def test_large_logits_do_not_overflow(attention: Attention) -> None:
    """Logits up to 1,000: exp overflows at 88 if the maximum is not subtracted."""
    query, key, value = qkv(scale=30)
    ours = jax.jit(attention)(query, key, value)
    theirs = reference.attend(*(x.astype(np.float64) for x in (query, key, value)))
    # A logit of 1,000 is known to 1e-4 in float32, and so is the ratio of two weights; |v| < 90.
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=2e-2)


@pytest.mark.parametrize("attention", [reference_attention, cpu_attention, tpu_attention])
def test_bfloat16_keeps_the_softmax_in_float32(attention: Attention) -> None:
    query, key, value = (jnp.asarray(x, jnp.bfloat16) for x in qkv())
    ours = jax.jit(attention)(query, key, value)
    theirs = reference.attend(*(np.asarray(x, np.float64) for x in (query, key, value)))
    assert ours.dtype == jnp.bfloat16
    # Weights and result are rounded to 8 bits; values are up to 3.
    np.testing.assert_allclose(np.asarray(ours, np.float64), theirs, rtol=0, atol=1.5e-2)
