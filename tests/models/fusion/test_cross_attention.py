"""Streams fused by cross-attention. The block itself is compared in tests/parity."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.models.tiny import images, randomised, text, token_ids, vit
from vljax.config import UserError, validate
from vljax.models.assembly import Model, ModelConfig, Variables, build
from vljax.models.compute import Call, Compute
from vljax.models.fusion import CrossAttention
from vljax.models.heads import Classifier

SIZES: dict[str, Any] = {"width": 32, "depth": 2, "heads": 4, "mlp_dim": 64}


def config(**fusion: Any) -> ModelConfig:
    fields = {"queries": "question", "pooling": "mean", **SIZES, **fusion}
    return ModelConfig(
        {
            "image": vit(image_size=16, pooling="mean"),
            "question": text(pooling="mean"),
            "fusion": CrossAttention(**fields),
            "answer": Classifier(stream="fusion", classes=5, hidden=16),
        }
    )


def made(of: ModelConfig) -> tuple[Model, Variables]:
    model = build(of, Compute())
    params = randomised(model.shapes.params)
    return model, Variables(jax.tree.map(jnp.asarray, params), {})


def batch(rows: int, texts: int | None = None) -> dict[str, Any]:
    count = rows * (texts or 1)
    ids, mask = token_ids(count, 8), np.arange(8) < 3 + np.arange(count)[:, None] % 5
    if texts is not None:
        ids, mask = ids.reshape(rows, texts, 8), mask.reshape(rows, texts, 8)
    entries = {"image": images(rows, 16, 16), "question": ids, "question_mask": mask}
    return {name: jnp.asarray(array) for name, array in entries.items()}


def test_several_texts_for_an_image_are_as_several_examples() -> None:
    """Dropout included: the rows of the texts are those of an expanded batch."""
    model, variables = made(config(scan=False, dropout=0.2))
    together = batch(2, texts=3)
    apart = {
        "image": jnp.repeat(together["image"], 3, axis=0),
        "question": together["question"].reshape(6, 8),
        "question_mask": together["question_mask"].reshape(6, 8),
    }
    call = Call(train=True, key=jax.random.key(1))
    apply = jax.jit(lambda batch: model.apply(variables, batch, call)[0]["answer/logits"])
    np.testing.assert_allclose(apply(together), apply(apart), rtol=0, atol=2e-6)


def test_scores_depend_on_both_streams_and_not_on_padding() -> None:
    model, variables = made(config(scan=False))
    apply = jax.jit(lambda batch: model.apply(variables, batch)[0]["answer/logits"])
    first = batch(2)
    before = apply(first)
    assert before.shape == (2, 5)
    ids, mask = first["question"], first["question_mask"]
    hidden = {**first, "question": jnp.where(mask, ids, (ids + 1) % 10)}
    np.testing.assert_allclose(apply(hidden), before, rtol=0, atol=1e-6)
    for name, other in (("image", 255 - first["image"]), ("question", (ids + 3) % 10)):
        assert np.abs(apply({**first, name: other}) - before).max() > 1e-3


def test_scanned_and_unrolled_fusions_compute_the_same() -> None:
    scanned, _ = made(config(scan=True))
    unrolled, variables = made(config(scan=False))
    blocks = variables.params["fusion"]["blocks"]
    stacked = jax.tree.map(lambda *x: jnp.stack(x), *(blocks[str(i)] for i in range(2)))
    fusion = {**variables.params["fusion"], "blocks": stacked}
    other = Variables({**variables.params, "fusion": fusion}, {})
    left, right = unrolled.apply(variables, batch(2))[0], scanned.apply(other, batch(2))[0]
    np.testing.assert_allclose(left["answer/logits"], right["answer/logits"], rtol=0, atol=2e-6)


@pytest.mark.parametrize("scan", [False, True])
def test_attention_weights_are_an_output_if_asked_for(scan: bool) -> None:
    """Blocks in order, whether scanned or not; they are computed only then."""
    model, variables = made(config(scan=scan))
    entries = batch(2, texts=3)
    outputs, _ = model.apply(variables, entries, want=["fusion/attention", "answer/logits"])
    weights = outputs["fusion/attention"]
    assert weights.shape == (6, 2, 4, 8, 16)  # rows, blocks, heads, words, image tokens
    np.testing.assert_allclose(jnp.sum(weights, -1), 1, atol=1e-6)
    plain, state = model.apply(variables, entries)
    assert "fusion/attention" not in plain
    assert state == {}
    np.testing.assert_allclose(plain["answer/logits"], outputs["answer/logits"], atol=1e-6)


def test_attention_weights_of_more_than_ten_blocks_are_in_order() -> None:
    """Other queries in block 10 change its weights and those of block 11, and none before."""
    model, variables = made(config(scan=False, depth=12, width=32, heads=1, mlp_dim=4))
    kernel = variables.params["fusion"]["blocks"]["10"]["cross_attention"]["query"]["kernel"]
    kernel *= 2
    change = {"fusion": {"blocks": {"10": {"cross_attention": {"query": {"kernel": kernel}}}}}}
    other = Variables(merged(variables.params, change), {})
    apply = jax.jit(lambda v: model.apply(v, batch(1), want=["fusion/attention"])[0])
    moved = apply(variables)["fusion/attention"] - apply(other)["fusion/attention"]
    assert [bool(np.abs(block).max() > 1e-6) for block in moved[0]] == [False] * 10 + [True] * 2


def merged(tree: Any, change: Any) -> Any:
    """The nested dicts with other leaves where `change` has some."""
    if not isinstance(change, dict):
        return change
    return {**tree, **{name: merged(tree[name], part) for name, part in change.items()}}


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"width": 64}, "nodes.fusion.queries: 'question' is 32 wide but width is 64"),
        ({"queries": "qestion"}, "nodes.fusion: reads 'qestion', which no node makes"),
        ({"context": "question"}, "nodes.fusion.context: is 'question', as queries"),
        ({"cross_attention": "none"}, "nodes.fusion.cross_attention: is what this fusion is for"),
    ],
)
def test_a_fusion_that_does_not_fit_is_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError) as error:
        validate(config(**fields))
    assert message in str(error.value)
