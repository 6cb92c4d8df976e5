"""Gated cross-attention; the gated block itself is compared with Idefics 1 in tests/parity."""

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
from tests.models.layers.stacks import Stack, normal
from tests.models.tiny import float64, randomised, text, vit
from vljax.config import UserError, validate
from vljax.models.assembly import Model, ModelConfig, Variables
from vljax.models.compute import Call, Compute
from vljax.models.fusion import GatedCrossAttention
from vljax.models.heads import Classifier
from vljax.models.layers.transformer import TransformerConfig
from vljax.models.node import Encoded
from vljax.models.parameters import leaves, unroll

SIZES: dict[str, Any] = {"width": 32, "depth": 2, "heads": 4, "mlp_dim": 40}
MASK = np.arange(6) < np.array([[6], [3], [5]])
SEEN = np.arange(5) < np.array([[2], [5], [0]])
KINDS = {
    "scanned": {"scan": True, "causal": True},
    "every other": {"scan": False, "depth": 4, "cross_every": 2, "gate": "vector"},
    "normed": {"scan": False, "query_key_norm": True, "post_norm": True},
}


def fusion(**fields: Any) -> GatedCrossAttention:
    return GatedCrossAttention(**{"queries": "question", **SIZES, **fields})


def config(**fields: Any) -> ModelConfig:
    return ModelConfig(
        {
            "image": vit(width=24, mlp_dim=32, pooling="mean"),
            "question": text(pooling="mean"),
            "fusion": fusion(**fields),
            "answer": Classifier(stream="fusion", classes=5),
        }
    )


@functools.cache
def model(**fields: Any) -> tuple[Model, Variables]:
    return made(config(**fields))


def streams() -> dict[str, Encoded]:
    context = Encoded(jnp.asarray(normal(3, 5, 12, seed=1)), jnp.asarray(SEEN))
    return {"question": Encoded(jnp.asarray(normal(3, 6, 32)), jnp.asarray(MASK)), "image": context}


@pytest.mark.parametrize("fields", KINDS.values(), ids=KINDS)
def test_at_the_start_the_text_stack_is_unchanged(fields: dict[str, Any]) -> None:
    """Bit by bit, with the initial gates and random weights otherwise."""
    node, inputs = fusion(**fields), streams()
    module = node.module(Compute(), "fusion")
    initial = meta.unbox(module.init(jax.random.key(0), inputs, Call())["params"])
    gates = [leaf for keys, leaf in leaves(initial) if keys[-1].endswith("_gate")]
    assert gates
    assert not any(np.any(gate) for gate in gates)
    params = randomised(initial)
    gated = closed(params)
    own = TransformerConfig(
        **{**SIZES, **{k: fields[k] for k in ("scan", "depth", "post_norm") if k in fields}}
    )
    stack = Stack(own, causal=node.causal)
    shapes = jax.eval_shape(stack.init, jax.random.key(0), inputs["question"].tokens)["params"]
    text_only = {
        name: jax.tree.map_with_path(functools.partial(_at, gated[name]), meta.unbox(tree))
        for name, tree in shapes.items()
    }
    alone = jax.jit(stack.apply)({"params": text_only}, inputs["question"].tokens, MASK)
    apply = jax.jit(lambda params: module.apply({"params": params}, inputs, Call()))
    np.testing.assert_array_equal(apply(gated)["fusion"].tokens, alone)
    assert np.abs(apply(params)["fusion"].tokens - alone).max() > 0.1


def closed(params: Any) -> Any:
    """The parameters with gates of 0."""
    return jax.tree.map_with_path(
        lambda path, leaf: jnp.zeros_like(leaf) if path[-1].key.endswith("_gate") else leaf, params
    )


def _at(tree: Any, path: Any, leaf: Any) -> Any:
    for entry in path:
        tree = tree[entry.key]
    assert tree.shape == leaf.shape
    return tree


def formula(params: Any, x: np.ndarray, context: np.ndarray, node: Any) -> np.ndarray:
    """Alayrac et al. 2022, fig. 4, in float64."""
    epsilon = node.norm_epsilon
    for i in range(node.depth):
        block = params["blocks"][str(i)]
        assert ("cross_attention" in block) == (i % node.cross_every == 0)
        if i % node.cross_every == 0:
            y = reference.layer_norm(x, block["cross_attention_norm"], epsilon)
            y = reference.attention(block["cross_attention"], y, context, SEEN, causal=False)
            y = y * SEEN.any(1)[:, None, None]
            x = x + np.tanh(block["cross_attention_gate"]) * y
            y = reference.layer_norm(x, block["cross_mlp_norm"], epsilon)
            y = reference.mlp(block["cross_mlp"], y, "squared_relu")
            x = x + np.tanh(block["cross_mlp_gate"]) * y
        y = reference.layer_norm(x, block["attention_norm"], epsilon)
        x = x + reference.attention(block["attention"], y, y, MASK, node.causal)
        y = reference.layer_norm(x, block["mlp_norm"], epsilon)
        x = x + reference.mlp(block["mlp"], y, node.activation)
    return reference.layer_norm(x, params["norm"], epsilon)


@pytest.mark.parametrize("kind", ["scanned", "every other"])
def test_a_fusion_is_the_formula(kind: str) -> None:
    """Values to 2e-6; the last row attends to no image. Gates are an output."""
    node, inputs = fusion(**KINDS[kind]), streams()
    module = node.module(Compute(), "fusion")
    shapes = jax.eval_shape(module.init, jax.random.key(0), inputs, Call())["params"]
    params = randomised(meta.unbox(shapes))
    products = jax.jit(lambda params: module.apply({"params": params}, inputs, Call()))(params)
    exact = float64(params)
    tokens, context = (np.asarray(inputs[n].tokens, np.float64) for n in ("question", "image"))
    theirs = formula(exact, tokens, context, node)
    np.testing.assert_allclose(products["fusion"].tokens, theirs, rtol=0, atol=2e-6)
    pooled = np.stack([row[seen].mean(0) for row, seen in zip(theirs, MASK, strict=True)])
    np.testing.assert_allclose(products["fusion"].pooled, pooled, rtol=0, atol=2e-6)
    gates = [
        [block[f"{branch}_gate"] for branch in ("cross_attention", "cross_mlp")]
        for block in exact["blocks"].values()
        if "cross_mlp" in block
    ]
    np.testing.assert_allclose(products["fusion/gates"], np.tanh(gates), rtol=0, atol=1e-6)


def test_gates_move_first() -> None:
    """At the start, gates have a gradient and what is behind them has none."""
    of, variables = model()
    entries = batch(2)

    def loss(params: Any) -> jax.Array:
        outputs, _ = of.apply(Variables(params, {}), entries)
        return jnp.sum(jnp.square(outputs["answer/logits"]))

    gradient = unroll(jax.jit(jax.grad(loss))(closed(variables.params)))["fusion"]["blocks"]["1"]
    for keys, leaf in leaves(gradient):
        assert np.all(np.isfinite(leaf))
        if keys[0].startswith("cross"):
            assert np.any(leaf) == keys[0].endswith("_gate"), keys


def test_several_texts_for_an_image_are_as_several_examples() -> None:
    """Dropout included: the rows of the texts are those of an expanded batch."""
    of, variables = model(scan=False, dropout=0.2)
    together = batch(2, texts=3)
    apart = {
        "image": jnp.repeat(together["image"], 3, axis=0),
        "question": together["question"].reshape(6, 8),
        "question_mask": together["question_mask"].reshape(6, 8),
    }
    call = Call(train=True, key=jax.random.key(1))
    apply = jax.jit(lambda batch: of.apply(variables, batch, call)[0]["answer/logits"])
    np.testing.assert_allclose(apply(together), apply(apart), rtol=0, atol=3e-6)


def test_scores_depend_on_both_streams_and_not_on_padding() -> None:
    of, variables = model()
    apply = jax.jit(lambda batch: of.apply(variables, batch)[0]["answer/logits"])
    first = batch(2)
    before = apply(first)
    ids, mask = first["question"], first["question_mask"]
    hidden = {**first, "question": jnp.where(mask, ids, (ids + 1) % 10)}
    np.testing.assert_allclose(apply(hidden), before, rtol=0, atol=1e-6)
    for name, other in (("image", 255 - first["image"]), ("question", (ids + 3) % 10)):
        assert np.abs(apply({**first, name: other}) - before).max() > 1e-3


def test_gates_and_attention_are_outputs_if_asked_for() -> None:
    of, variables = model()
    want = ("fusion/attention", "fusion/gates")
    outputs, _ = jax.jit(lambda entries: of.apply(variables, entries, want=want))(batch(2, texts=3))
    assert outputs["fusion/attention"].shape == (6, 2, 4, 8, 16)
    np.testing.assert_allclose(jnp.sum(outputs["fusion/attention"], -1), 1, atol=1e-6)
    assert outputs["fusion/gates"].shape == (2, 2)
    assert "fusion/gates" in of.shared
    assert not set(want) & set(jax.eval_shape(lambda: of.apply(variables, batch(2)))[0])


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"width": 64}, "nodes.fusion.queries: 'question' is 32 wide but width is 64; make them"),
        ({"queries": "qestion"}, "nodes.fusion: reads 'qestion', which no node makes"),
        ({"context": "question"}, "nodes.fusion.context: is 'question', as queries; name another"),
        (
            {"cross_attention": "after_self"},
            "nodes.fusion.cross_attention: gated blocks stand before self-attention; use"
            " before_self, not after_self",
        ),
        ({"cross_every": 2}, "nodes.fusion.cross_every: scanned blocks are all alike; unset scan"),
        (
            {"causal": True, "pooling": "first"},
            "nodes.fusion.pooling: the first token of a causal stack attends to itself only",
        ),
    ],
)
def test_a_fusion_that_does_not_fit_is_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError) as error:
        validate(config(**fields))
    assert message in str(error.value)


def test_tokens_have_the_computed_type_and_gates_float32() -> None:
    module = fusion(remat="full").module(Compute(jnp.bfloat16), "fusion")
    products, _ = jax.eval_shape(
        lambda: module.init_with_output(jax.random.key(0), streams(), Call())
    )
    assert products["fusion"].tokens.dtype == jnp.bfloat16
    assert products["fusion/gates"].dtype == jnp.float32
