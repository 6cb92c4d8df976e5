from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.linen import meta

from vljax.config import UserError, decode, validate
from vljax.models.compute import Call, Compute
from vljax.models.heads.embedding import Embedding
from vljax.models.node import Encoded
from vljax.models.numerics import unit

POOLED = np.random.default_rng(0).standard_normal((3, 6)).astype(np.float32)


def stream(pooled: np.ndarray, dtype: Any = jnp.float32) -> Encoded:
    tokens = jnp.zeros((len(pooled), 2, pooled.shape[1]), dtype)
    return Encoded(tokens, jnp.ones((len(pooled), 2), bool), jnp.asarray(pooled, dtype))


def run(head: Embedding, params: dict[str, Any], **streams: Encoded) -> dict[str, np.ndarray]:
    module = head.module(Compute(), "head")
    boxed = jax.eval_shape(module.init, jax.random.key(0), streams, Call()).get("params", {})
    assert jax.tree.map(jnp.shape, meta.unbox(boxed)) == jax.tree.map(np.shape, params)
    return jax.device_get(module.apply({"params": params}, streams, Call()))


@pytest.mark.parametrize("projection", ["none", "linear", "affine", "tanh"])
@pytest.mark.parametrize("normalize", [False, True])
def test_projections(projection: str, normalize: bool) -> None:
    rng = np.random.default_rng(1)
    dim = 6 if projection == "none" else 4
    kernel = rng.standard_normal((6, dim)).astype(np.float32)
    bias = rng.standard_normal(dim).astype(np.float32)
    params: dict[str, Any] = {
        "none": {},
        "linear": {"image": {"kernel": kernel}},
        "affine": {"image": {"kernel": kernel, "bias": bias}},
        "tanh": {"image": {"kernel": kernel, "bias": bias}},
    }[projection]
    expected = POOLED.astype(np.float64)
    if projection != "none":
        expected = expected @ kernel
    if projection in ("affine", "tanh"):
        expected = expected + bias
    if projection == "tanh":
        expected = np.tanh(expected)
    if normalize:
        expected /= np.sqrt((expected**2).sum(-1, keepdims=True))
    head = Embedding(dim, {"image": projection}, normalize)
    outputs = run(head, params, image=stream(POOLED))
    assert set(outputs) == {"image/embedding"}
    np.testing.assert_allclose(outputs["image/embedding"], expected, rtol=0, atol=2e-6)


def test_a_stream_that_the_batch_lacks_is_left_out() -> None:
    head = Embedding(6, {"image": "none", "text": "linear"})
    assert head.streams_read() == ("image", "text")
    assert set(run(head, {}, image=stream(POOLED))) == {"image/embedding"}


def test_a_stream_that_is_not_asked_for_is_left_out() -> None:
    outputs = run(Embedding(6, {"text": "none"}), {}, image=stream(POOLED), text=stream(POOLED))
    assert set(outputs) == {"text/embedding"}


def test_embeddings_are_float32_of_unit_length_in_bfloat16_too() -> None:
    outputs = run(Embedding(6, {"image": "none"}), {}, image=stream(POOLED, jnp.bfloat16))
    embedding = outputs["image/embedding"]
    assert embedding.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(embedding, axis=-1), 1, rtol=0, atol=2e-7)


@pytest.mark.parametrize("size", [1e-12, 1.0, 1e12])
def test_unit_length_at_any_size(size: float) -> None:
    x = size * POOLED
    expected = POOLED / np.linalg.norm(POOLED.astype(np.float64), axis=-1, keepdims=True)
    np.testing.assert_allclose(unit(jnp.asarray(x)), expected, rtol=0, atol=3e-7)


def test_unit_is_differentiable() -> None:
    """d(x/|x|) = (I - uu')/|x|, and zero at zero, where a naive norm gives NaN."""
    jacobian = jax.jacobian(unit)
    x = POOLED[0].astype(np.float64)
    length = np.linalg.norm(x)
    expected = (np.eye(6) - np.outer(x, x) / length**2) / length
    np.testing.assert_allclose(jacobian(jnp.asarray(POOLED[0])), expected, rtol=0, atol=5e-7)
    zero = jnp.zeros(6)
    assert not unit(zero).any()
    assert not jacobian(zero).any()


def test_a_bad_size_is_named() -> None:
    with pytest.raises(UserError, match=r"^dim: must be at least 1, not 0$"):
        validate(Embedding(0))


def test_a_head_without_a_stream_is_refused() -> None:
    with pytest.raises(UserError, match=r"^projections: names no stream; name those to embed"):
        validate(Embedding(4, {}))


def test_an_unknown_projection_is_named() -> None:
    with pytest.raises(UserError, match=r"^projections.image: unknown value 'linaer'; .*'linear'"):
        decode(Embedding, {"dim": 4, "projections": {"image": "linaer"}})
