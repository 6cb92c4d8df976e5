from __future__ import annotations

import typing

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.models import reference
from tests.models.tiny import randomised, text
from vljax.models.compute import Compute
from vljax.models.encoders import TextTransformer, ViT
from vljax.models.layers import pooling

TOKENS = np.random.default_rng(0).standard_normal((4, 5, 32)).astype(np.float32)
MASK = np.array([[1, 1, 1, 1, 1], [1, 1, 0, 0, 0], [1, 0, 0, 0, 0], [0, 1, 1, 0, 0]], bool)


def pooled(name: str, tokens: np.ndarray, mask: np.ndarray) -> np.ndarray:
    return np.asarray(pooling.POOLINGS[name](jnp.asarray(tokens), jnp.asarray(mask)))


@pytest.mark.parametrize("encoder", [ViT, TextTransformer])
def test_every_pooling_of_a_recipe_exists(encoder: type) -> None:
    names = typing.get_args(typing.get_type_hints(encoder)["pooling"])
    assert set(names) <= {*pooling.POOLINGS, "map"}


@pytest.mark.parametrize("name", ["cls", "first"])
def test_first(name: str) -> None:
    assert np.array_equal(pooled(name, TOKENS, MASK), TOKENS[:, 0])


def test_last_is_the_last_position_padding_or_not() -> None:
    assert np.array_equal(pooled("last", TOKENS, MASK), TOKENS[:, 4])


def test_eos_is_the_last_real_token() -> None:
    expected = TOKENS[np.arange(4), [4, 1, 0, 2]]
    assert np.array_equal(pooled("eos", TOKENS, MASK), expected)


def test_mean_is_over_the_real_tokens() -> None:
    expected = [
        row[mask].astype(np.float64).mean(0) for row, mask in zip(TOKENS, MASK, strict=True)
    ]
    np.testing.assert_allclose(pooled("mean", TOKENS, MASK), expected, rtol=0, atol=3e-7)


def test_mean_of_nothing_is_zero() -> None:
    assert not pooled("mean", TOKENS, np.zeros_like(MASK)).any()


def test_mean_adds_up_in_float32() -> None:
    """4,096 ones: a bfloat16 sum stops at 256."""
    tokens = jnp.ones((1, 4096, 4), jnp.bfloat16)
    mean = pooling.mean(tokens, jnp.ones((1, 4096), bool))
    assert mean.dtype == jnp.bfloat16
    assert np.array_equal(mean.astype(np.float32), np.ones((1, 4), np.float32))


@pytest.mark.parametrize("activation", ["gelu", "gelu_tanh", "quick_gelu"])
def test_map_is_attention_and_an_mlp(activation: str) -> None:
    config = text(activation=activation, norm_epsilon=1e-3)
    fields = (config.heads, config.mlp_dim, config.activation, config.norm_epsilon)
    module = pooling.AttentionPooling(*fields, Compute())
    args = jnp.asarray(TOKENS), jnp.asarray(MASK)
    shapes = jax.eval_shape(module.init, jax.random.key(0), *args)["params"]
    shapes = jax.tree.map(lambda box: box.value, shapes, is_leaf=lambda x: hasattr(x, "names"))
    params = randomised(shapes)
    ours = jax.jit(module.apply)({"params": params}, *args)
    wide = jax.tree.map(lambda x: x.astype(np.float64), params)
    theirs = reference.attention_pooling(wide, TOKENS.astype(np.float64), MASK, config)
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=5e-6)


@pytest.mark.parametrize("cells", [(1, 1), (2, 3), (3, 2), (5, 4), (7, 9)])
def test_adaptive_means_are_those_of_pytorch_s_cells(cells: tuple[int, int]) -> None:
    """Cell i of n: pixels from floor(i * size / n) to ceil((i + 1) * size / n)."""
    x = np.random.default_rng(0).standard_normal((2, 5, 4, 3)).astype(np.float32)

    def spans(size: int, count: int) -> list[slice]:
        return [slice(i * size // count, -(-(i + 1) * size // count)) for i in range(count)]

    wanted = [
        [np.float64(x[:, r, c]).mean((1, 2)) for c in spans(4, cells[1])]
        for r in spans(5, cells[0])
    ]
    made = pooling.adaptive_mean(jnp.asarray(x), *cells)
    np.testing.assert_allclose(made, np.moveaxis(np.array(wanted), 2, 0), rtol=0, atol=1e-6)
