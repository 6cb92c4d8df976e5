"""Attention against float64 NumPy, and its implementations against each other."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.extend.core import jaxprs_in_params

from vljax.models.kernels.attention import cudnn, tpu
from vljax.models.kernels.attention.reference import reference_attention
from vljax.parallel.mesh import MeshConfig, make_mesh
from vljax.parallel.per_device import on_each_device


def normal(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


attend = jax.jit(reference_attention, static_argnames="causal")
MASK = np.array([[1, 1, 1, 0, 1], [0, 1, 1, 1, 0], [1, 0, 0, 0, 0]], bool)


def test_a_query_without_keys_gets_the_mean_of_the_values() -> None:
    query, key, value = (normal(1, 5, 2, 8, seed=i) for i in range(3))
    ours = attend(query, key, value, np.zeros((1, 5), bool))
    mean = np.broadcast_to(value.astype(np.float64).mean(1, keepdims=True), value.shape)
    np.testing.assert_allclose(ours, mean, rtol=0, atol=1e-6)


def test_masked_keys_have_no_gradient() -> None:
    query, key, value = (jnp.asarray(normal(1, 5, 2, 8, seed=i)) for i in range(3))
    mask = jnp.asarray(MASK[:1])

    def total(key: jax.Array, value: jax.Array) -> jax.Array:
        return jnp.sum(jnp.square(reference_attention(query, key, value, mask)))

    for gradient in jax.jit(jax.grad(total, argnums=(0, 1)))(key, value):
        assert not gradient[:, 3].any()
        assert gradient[:, 0].any()


def primitives(jaxpr: Any) -> Iterator[Any]:
    """Every equation of a program, those of inner functions too."""
    for equation in jaxpr.eqns:
        yield equation
        for inner in jaxprs_in_params(equation.params):
            yield from primitives(inner)


def test_the_softmax_is_in_float32() -> None:
    x = jnp.ones((1, 5, 2, 8), jnp.bfloat16)
    program = jax.make_jaxpr(reference_attention)(x, x, x).jaxpr
    types = [e.invars[0].aval.dtype for e in primitives(program) if e.primitive.name == "exp"]
    assert types == [jnp.float32]
    assert program.outvars[0].aval.dtype == jnp.bfloat16


def qkv(queries: int, keys: int, head_dim: int) -> tuple[jax.Array, ...]:
    shapes = [(2, queries, 4, head_dim), (2, keys, 4, head_dim), (2, keys, 4, head_dim)]
    return tuple(jnp.asarray(normal(*shape, seed=i)) for i, shape in enumerate(shapes))


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize(("keys", "head_dim"), [(70, 16), (150, 72)], ids=["one tile", "two tiles"])
def test_the_tiled_kernel_is_attention(keys: int, head_dim: int, causal: bool) -> None:
    """For lengths that are not whole tiles; values and gradients to 1e-5 of the largest."""
    arguments = qkv(keys, keys, head_dim)
    mask = jnp.asarray(np.arange(keys) < np.array([[keys], [keys - 9]]))

    def summed(function: Any, *args: jax.Array) -> jax.Array:
        return jnp.sum(jnp.sin(function(*args, mask, causal)))

    tiled = functools.partial(tpu.splash, interpret=True)
    for function in (jax.value_and_grad(summed, (1, 2, 3)),):
        ours, theirs = (
            jax.tree.leaves(function(f, *arguments)) for f in (tiled, reference_attention)
        )
        for one, other in zip(ours, theirs, strict=True):
            np.testing.assert_allclose(one, other, rtol=0, atol=1e-5 * np.abs(other).max())


def test_the_tiled_kernel_runs_on_each_device(monkeypatch: pytest.MonkeyPatch) -> None:
    mesh = make_mesh(MeshConfig(2, 1, 2), jax.devices()[:4])
    splash = functools.partial(tpu.splash_attention, on_each_device=on_each_device(mesh))
    seen = []

    def local(query: jax.Array, *rest: Any, causal: bool) -> jax.Array:
        seen.append(query.shape)
        return reference_attention(query, *rest, causal)

    monkeypatch.setattr(tpu, "splash", local)
    arguments = qkv(5, 5, 8)
    for mask in (None, prefixes(5), prefixes(5, 1)[1:], pairs(5, 5)):
        ours = jax.jit(splash)(*arguments, mask)
        expected = reference_attention(*arguments, mask)
        np.testing.assert_allclose(ours, expected, rtol=0, atol=1e-6)
    assert seen[1::2] == [(1, 5, 2, 8)] * 3  # the shape of the result is asked for first


@pytest.mark.parametrize(("keys", "tiled"), [(1023, False), (1024, True)])
def test_long_sequences_use_the_tiled_kernel_on_tpu(
    keys: int, tiled: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def kernel(query: jax.Array, *rest: Any, causal: bool) -> jax.Array:
        return jnp.full_like(query, 7)

    monkeypatch.setattr(tpu, "splash", kernel)
    x = jnp.ones((1, keys, 1, 8))
    assert bool(jnp.all(tpu.tpu_attention(x[:, :1], x, x) == 7)) == tiled


def pairs(queries: int, keys: int) -> jax.Array:
    """A mask by queries and keys, in which every query has the first key."""
    mask = np.random.default_rng(0).random((2, queries, keys)) < 0.6
    return jnp.asarray(mask).at[:, :, 0].set(True)


def prefixes(keys: int, *axes: int) -> jax.Array:
    """All keys of one example, and all but two of the other."""
    mask = jnp.asarray(np.arange(keys) < np.array([[keys], [keys - 2]]))
    return mask.reshape(2, *axes, keys)


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize(("queries", "keys"), [(5, 5), (6, 6), (1, 4), (1, 5), (3, 6)])
@pytest.mark.parametrize("masked", ["", "keys", "pairs"])
def test_cudnn_gets_shapes_that_it_supports(
    queries: int, keys: int, masked: str, causal: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Even lengths, and a mask with a row for each query. The kernel itself needs a GPU."""
    arguments = qkv(queries, keys, 8)
    mask = {"": None, "keys": prefixes(keys), "pairs": pairs(queries, keys)}[masked]
    expected = reference_attention(*arguments, mask, causal)
    xla, seen = jax.nn.dot_product_attention, []

    def kernel(query: jax.Array, key: jax.Array, value: jax.Array, **options: Any) -> jax.Array:
        assert options.pop("implementation") == "cudnn"
        assert query.shape[1] % 2 == key.shape[1] % 2 == 0
        assert not options["is_causal"] or query.shape[1] == key.shape[1]
        if options["mask"] is not None:
            assert options["mask"].shape == (2, 1, query.shape[1], key.shape[1])
        seen.append(query.shape)
        return xla(query, key, value, **options)

    monkeypatch.setattr(jax.nn, "dot_product_attention", kernel)
    ours = cudnn.cudnn_attention(*arguments, mask, causal)
    assert seen
    np.testing.assert_allclose(ours, expected, rtol=0, atol=1e-6)


def interpreted(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Has `splash_attention` run its kernel in the interpreter; the result lists the calls."""
    calls, splash = [], tpu.splash

    def local(*arguments: Any, causal: bool) -> jax.Array:
        calls.append(arguments)
        return splash(*arguments, causal, interpret=True)

    monkeypatch.setattr(tpu, "splash", local)
    return calls


@pytest.mark.parametrize("axes", [(), (1,)], ids=["two axes", "three axes"])
@pytest.mark.parametrize("rows", [1, 2])
def test_the_tiled_kernel_takes_masks_of_keys(
    axes: tuple[int, ...], rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = interpreted(monkeypatch)
    arguments, mask = qkv(4, 9, 16), prefixes(9, *axes)[2 - rows :]
    ours = tpu.splash_attention(*arguments, mask)
    np.testing.assert_allclose(ours, reference_attention(*arguments, mask), rtol=0, atol=1e-5)
    assert calls[0][3].shape == (2, 9)


@pytest.mark.parametrize(
    ("queries", "causal", "by_query"), [(4, True, False), (4, False, True), (9, True, True)]
)
def test_what_the_tiled_kernel_cannot_do_is_dense(
    queries: int, causal: bool, by_query: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Values and gradients, to 1e-5 of the largest."""
    calls = interpreted(monkeypatch)
    arguments = qkv(queries, 9, 16)
    mask = pairs(queries, 9) if by_query else prefixes(9)

    def loss(attention: Any, *arguments: jax.Array) -> jax.Array:
        return jnp.sum(jnp.sin(attention(*arguments, mask, causal)))

    gradient = jax.value_and_grad(loss, (1, 2, 3))
    ours = gradient(tpu.splash_attention, *arguments)
    theirs = gradient(reference_attention, *arguments)
    for one, other in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        np.testing.assert_allclose(one, other, rtol=0, atol=1e-5 * np.abs(other).max())
    assert not calls


@pytest.mark.parametrize("causal", [False, True])
def test_the_tiled_kernel_gives_zero_to_a_query_without_keys(causal: bool) -> None:
    query, key, value = qkv(4, 4, 16)
    mask = jnp.array([[True] * 4, [False, False, True, True] if causal else [False] * 4])
    blind = slice(0, 2) if causal else slice(None)

    def loss(query: jax.Array, key: jax.Array, value: jax.Array) -> jax.Array:
        return jnp.sum(jnp.sin(tpu.splash(query, key, value, mask, causal, interpret=True)))

    assert not np.any(tpu.splash(query, key, value, mask, causal, interpret=True)[1, blind])
    gradients = jax.grad(loss, (0, 1, 2))(query, key, value)
    assert not np.any(gradients[0][1, blind])
    if not causal:
        assert not any(np.any(gradient[1]) for gradient in gradients)
