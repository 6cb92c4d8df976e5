"""The resampler and the Q-Former in models; tests/parity compares them with transformers."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.linen import meta

from tests.models import reference
from tests.models.fusion.test_cross_attention import batch, made
from tests.models.layers.stacks import normal
from tests.models.tiny import float64, randomised, text, vit
from vljax.config import UserError, validate
from vljax.models.assembly import Model, ModelConfig, Variables
from vljax.models.compute import Call, Compute
from vljax.models.fusion import CrossAttention, QFormer, Resampler
from vljax.models.heads import Classifier
from vljax.models.node import Encoded, Node
from vljax.models.parameters import leaves

SIZES: dict[str, Any] = {"width": 32, "depth": 2, "heads": 4, "mlp_dim": 40}
NODES: dict[str, dict[str, Node]] = {
    "resampler": {
        "summary": Resampler(num_queries=3, input_projection=True, dropout=0.2, **SIZES),
        "fusion": CrossAttention(
            queries="question", context="summary", **{**SIZES, "depth": 1}, dropout=0.2
        ),
    },
    "q_former": {"fusion": QFormer(text="question", num_queries=3, dropout=0.2, **SIZES)},
    "queries alone": {
        "summary": QFormer(num_queries=3, cross_every=1, scan=True, dropout=0.2, **SIZES),
        "fusion": CrossAttention(
            queries="question", context="summary", **{**SIZES, "depth": 1}, dropout=0.2
        ),
    },
}
kinds = pytest.mark.parametrize("kind", NODES)


def config(nodes: dict[str, Node]) -> ModelConfig:
    return ModelConfig(
        {
            "image": vit(width=24, mlp_dim=32, pooling="mean"),
            "question": text(pooling="mean"),
            **nodes,
            "answer": Classifier(stream="fusion", classes=5),
        }
    )


@functools.cache
def model(kind: str) -> tuple[Model, Variables]:
    return made(config(NODES[kind]))


@kinds
def test_several_texts_for_an_image_are_as_several_examples(kind: str) -> None:
    """Dropout included where each text has queries of its own."""
    of, variables = model(kind)
    together = batch(2, texts=3)
    apart = {
        "image": jnp.repeat(together["image"], 3, axis=0),
        "question": together["question"].reshape(6, 8),
        "question_mask": together["question_mask"].reshape(6, 8),
    }
    train = kind == "q_former"
    call = Call(train=train, key=jax.random.key(1) if train else None)
    apply = jax.jit(lambda batch: of.apply(variables, batch, call)[0]["answer/logits"])
    np.testing.assert_allclose(apply(together), apply(apart), rtol=0, atol=3e-6)


@kinds
def test_scores_depend_on_both_streams_and_not_on_padding(kind: str) -> None:
    """Padding of the text, and of the image; every gradient is finite."""
    of, variables = model(kind)
    first = batch(2)
    ids, mask = first["question"], first["question_mask"]
    seen = jnp.arange(16) < jnp.array([[7], [12]])
    tokens = jnp.asarray(normal(2, 16, 24))

    def logits(params: Any, batch: Any, tokens: jax.Array) -> jax.Array:
        given = {"image/tokens": tokens, "image/mask": seen}
        return of.apply(Variables(params, {}), batch, given=given)[0]["answer/logits"]

    apply = jax.jit(functools.partial(logits, variables.params))
    before = apply(first, tokens)
    hidden = {**first, "question": jnp.where(mask, ids, (ids + 1) % 10)}
    np.testing.assert_allclose(apply(hidden, tokens), before, rtol=0, atol=1e-6)
    padded = jnp.where(seen[:, :, None], tokens, 1e3)
    np.testing.assert_allclose(apply(first, padded), before, rtol=0, atol=1e-6)
    assert np.abs(apply(first, tokens[:, ::-1] + 1) - before).max() > 1e-3
    assert np.abs(apply({**first, "question": (ids + 3) % 10}, tokens) - before).max() > 1e-3

    def loss(params: Any) -> jax.Array:
        return jnp.sum(jnp.square(logits(params, first, tokens)))

    gradients = dict(leaves(jax.jit(jax.grad(loss))(variables.params)))
    assert all(np.all(np.isfinite(gradient)) for gradient in gradients.values())
    (queries,) = (gradient for keys, gradient in gradients.items() if keys[-1] == "queries")
    assert np.all(np.linalg.norm(queries, axis=1) > 1e-3)


@kinds
def test_outputs_have_one_token_for_each_query(kind: str) -> None:
    of, variables = model(kind)
    stream = "fusion" if kind == "q_former" else "summary"
    rows = 6 if kind == "q_former" else 2
    want = [f"{stream}/{field}" for field in ("tokens", "mask", "pooled", "attention")]
    outputs, _ = jax.jit(lambda entries: of.apply(variables, entries, want=want))(batch(2, texts=3))
    tokens, mask, pooled, attention = (outputs[name] for name in want)
    assert tokens.shape == (rows, 3, 32)
    assert mask.shape == (rows, 3)
    assert np.all(mask)
    np.testing.assert_allclose(pooled, np.mean(tokens, 1), atol=1e-6)
    # The queries of a resampler are keys too; only the first of two blocks of `q_former` crosses.
    keys, crossing = {"resampler": (19, 2), "q_former": (16, 1)}.get(kind, (16, 2))
    assert attention.shape == (rows, crossing, 4, 3, keys)
    np.testing.assert_allclose(np.sum(attention, -1), 1, atol=1e-6)


def test_the_text_comes_out_of_a_q_former_too() -> None:
    of, variables = model("q_former")
    assert jax.eval_shape(lambda: of.apply(variables, batch(2, texts=3)))[0][
        "fusion.question/tokens"
    ].shape == (6, 8, 32)


def test_a_resampler_is_the_formula() -> None:
    """Alayrac et al. 2022, fig. 5, in float64, with a projection; values to 2e-6."""
    node = Resampler(num_queries=3, input_projection=True, **SIZES)
    seen = np.arange(5) < np.array([[2], [5]])
    image = Encoded(jnp.asarray(normal(2, 5, 12)), jnp.asarray(seen))
    module = node.module(Compute(), "summary")
    shapes = jax.eval_shape(module.init, jax.random.key(0), {"image": image}, Call())["params"]
    params = randomised(meta.unbox(shapes))
    apply = jax.jit(lambda params: module.apply({"params": params}, {"image": image}, Call()))
    exact = float64(params)
    context = np.asarray(image.tokens, np.float64) @ exact["input_projection"]["kernel"]
    context = context + exact["input_projection"]["bias"]
    x = np.broadcast_to(exact["queries"], (2, 3, 32))
    for block in exact["blocks"].values():
        y = reference.layer_norm(x, block["cross_attention_norm"], 1e-6)
        keys = np.concatenate([reference.layer_norm(context, block["context_norm"], 1e-6), y], 1)
        mask = np.concatenate([seen, np.ones((2, 3), bool)], 1)
        x = x + reference.attention(block["cross_attention"], y, keys, mask, causal=False)
        y = reference.layer_norm(x, block["mlp_norm"], 1e-6)
        x = x + reference.mlp(block["mlp"], y, "squared_relu")
    theirs = reference.layer_norm(x, exact["norm"], 1e-6)
    np.testing.assert_allclose(apply(params)["summary"].tokens, theirs, rtol=0, atol=2e-6)


@pytest.mark.parametrize(
    ("node", "message"),
    [
        (
            Resampler(**SIZES),
            "nodes.fusion.context: 'image' is 24 wide but width is 32; make them equal, or set"
            " input_projection",
        ),
        (Resampler(num_queries=0, **SIZES), "nodes.fusion.num_queries: must be at least 1, not 0"),
        (
            Resampler(post_norm=True, **SIZES),
            "nodes.fusion.post_norm: every block of a resampler is the same; use False, not True",
        ),
        (
            Resampler(cross_every=2, scan=False, **SIZES),
            "nodes.fusion.cross_every: every block of a resampler is the same; use 1, not 2",
        ),
        (QFormer(num_queries=0, **SIZES), "nodes.fusion.num_queries: must be at least 1, not 0"),
        (QFormer(text="image", **SIZES), "nodes.fusion.text: is 'image', as context; name another"),
        (
            QFormer(text="question", **{**SIZES, "width": 16}),
            "nodes.fusion.text: 'question' is 32 wide but width is 16; make them equal",
        ),
        (QFormer(text="qestion", **SIZES), "nodes.fusion: reads 'qestion', which no node makes"),
        (
            QFormer(scan=True, **SIZES),
            "nodes.fusion.cross_every: scanned blocks are all alike; unset scan, or use 1",
        ),
        (
            QFormer(cross_attention="none", cross_every=1, **SIZES),
            "nodes.fusion.cross_attention: follows self-attention; use after_self, not none",
        ),
    ],
)
def test_a_fusion_that_does_not_fit_is_refused(node: Node, message: str) -> None:
    with pytest.raises(UserError) as error:
        validate(config({"fusion": node}))
    assert message in str(error.value)


@pytest.mark.parametrize(
    "node",
    [
        Resampler(remat="full", input_projection=True, **SIZES),
        QFormer(text="question", remat="dots", **SIZES),
    ],
    ids=["resampler", "q_former"],
)
def test_tokens_have_the_computed_type(node: Node) -> None:
    """Learned queries and streams of another type are rounded to it."""
    inputs = {
        name: Encoded(jnp.ones((2, 5, 32)), jnp.ones((2, 5), bool)) for name in node.streams_read()
    }
    module = node.module(Compute(jnp.bfloat16), "fusion")
    products, _ = jax.eval_shape(lambda: module.init_with_output(jax.random.key(0), inputs, Call()))
    assert {stream.tokens.dtype for stream in products.values()} == {jnp.dtype(jnp.bfloat16)}
    assert {stream.pooled.dtype for stream in products.values()} == {jnp.dtype(jnp.bfloat16)}
