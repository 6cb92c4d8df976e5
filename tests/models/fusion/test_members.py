"""What holds for every fusion of vectors, tokens and decisions: one model with all of them."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.models.fusion.streams import decisions, fusions
from tests.models.tiny import STACK, images, randomised, text, token_ids, vit
from vljax.config import UserError, validate
from vljax.models.assembly import Model, ModelConfig, Variables, build
from vljax.models.compute import Call, Compute
from vljax.models.fusion import (
    AttentionWeighted,
    Concatenation,
    CrossAttention,
    Decision,
    GraphFusion,
    GuidedAttention,
    Mfb,
    Mutan,
    Sum,
)
from vljax.models.heads import Classifier, EmbeddingClassifier
from vljax.models.node import Node
from vljax.models.parameters import leaves

WIDTH, CLASSES = 32, 5
FUSIONS, DECISIONS = fusions(WIDTH, 0.2), decisions(CLASSES)
# Each fusion with a head of its own; `looked` only feeds another fusion.
HEADS = {f"{name}_answer": name for name in FUSIONS}
LOGITS = [f"{name}/logits" for name in [*HEADS, *DECISIONS, "embedded"]]


def towers() -> dict[str, Node]:
    fields: dict[str, Any] = {"pooling": "mean", "depth": 1, "scan": False}
    return {"image": vit(image_size=16, **fields), "question": text(**fields)}


@functools.cache
def config() -> ModelConfig:
    heads = {name: Classifier(stream=stream, classes=CLASSES) for name, stream in HEADS.items()}
    embedded = EmbeddingClassifier(stream="product", classes=CLASSES, dim=6)
    return ModelConfig({**towers(), **FUSIONS, **heads, **DECISIONS, "embedded": embedded})


@functools.cache
def model() -> tuple[Model, Variables]:
    validate(config())
    made = build(config(), Compute())
    params = randomised(made.shapes.params)
    return made, Variables(jax.tree.map(jnp.asarray, params), {})


def batch(rows: int = 2, texts: int = 3) -> dict[str, Any]:
    count = rows * texts
    ids, mask = token_ids(count, 8), np.arange(8) < 3 + np.arange(count)[:, None] % 5
    ids, mask = ids.reshape(rows, texts, 8), mask.reshape(rows, texts, 8)
    entries = {"image": images(rows, 16, 16), "question": ids, "question_mask": mask}
    return {name: jnp.asarray(array) for name, array in entries.items()}


def expanded(of: dict[str, Any]) -> dict[str, Any]:
    """One row for each question."""
    texts = of["question"].shape[1]
    return {
        "image": jnp.repeat(of["image"], texts, axis=0),
        "question": of["question"].reshape(-1, 8),
        "question_mask": of["question_mask"].reshape(-1, 8),
    }


@jax.jit
def _apply(params: Any, entries: Any, call: Call) -> Any:
    return model()[0].apply(Variables(params, {}), entries, call, want=LOGITS)[0]


@functools.cache
def logits(change: str) -> dict[str, np.ndarray]:
    """Of the batch with a change."""
    entries = expanded(batch())
    ids, mask = entries["question"], entries["question_mask"]
    call = Call()
    match change:
        case "padding":
            entries["question"] = jnp.where(mask, ids, (ids + 1) % 10)
        case "image":
            entries["image"] = 255 - entries["image"]
        case "question":
            entries["question"] = (ids + 3) % 10
        case "training":
            call = Call(train=True, key=jax.random.key(1))
        case "training, several texts":
            entries, call = batch(), Call(train=True, key=jax.random.key(1))
    return {k: np.asarray(v) for k, v in _apply(model()[1].params, entries, call).items()}


@pytest.mark.parametrize("name", LOGITS)
def test_several_texts_for_an_image_are_as_several_examples(name: str) -> None:
    """Dropout included: the rows of the texts are those of an expanded batch."""
    apart, together = logits("training")[name], logits("training, several texts")[name]
    assert apart.shape == (6, CLASSES)
    np.testing.assert_allclose(together, apart, rtol=1e-5, atol=1e-5)
    changed = np.abs(apart - logits("")[name]).max() > 1e-3
    assert changed == (name.partition("/")[0] not in DECISIONS)  # these have no dropout


@pytest.mark.parametrize("name", LOGITS)
def test_scores_depend_on_both_streams_and_not_on_padding(name: str) -> None:
    before = logits("")[name]
    np.testing.assert_allclose(logits("padding")[name], before, rtol=1e-5, atol=1e-5)
    for stream in ("image", "question"):
        assert np.abs(logits(stream)[name] - before).max() > 1e-3


def gradients() -> dict[str, np.ndarray]:
    """Of a loss of all logits; one question has no word."""
    entries = batch()
    entries["question_mask"] = entries["question_mask"].at[0, 0].set(False)

    @jax.jit
    @jax.grad
    def of_loss(params: Any) -> Any:
        outputs, _ = model()[0].apply(Variables(params, {}), entries, want=LOGITS)
        return sum(jnp.sum(jax.nn.log_softmax(outputs[name])[:, 0]) for name in LOGITS)

    return {"/".join(path): np.asarray(g) for path, g in leaves(of_loss(model()[1].params))}


def test_every_parameter_has_a_finite_gradient() -> None:
    for path, gradient in gradients().items():
        assert np.isfinite(gradient).all(), path
        # A bias of all keys changes no weight of attention.
        assert (np.abs(gradient).max() > 1e-6) or path.endswith("key/bias"), path


def test_weights_and_edges_are_outputs() -> None:
    """The edges and the attention over image tokens only if they are asked for."""
    made, variables = model()
    assert {"dot_weighted/weights", "agreement/decided"} <= {*_outputs()}
    asked = ["learned_weighted/weights", "convolution/edges", "stacked/attention"]
    assert "convolution/edges" not in _outputs()
    assert "stacked/attention" not in _outputs()
    found, state = jax.jit(lambda entries: made.apply(variables, entries, want=asked))(batch())
    assert state == {}
    np.testing.assert_allclose(found["learned_weighted/weights"].sum(axis=1), 1, rtol=1e-6)
    assert found["convolution/edges"].shape == (6, 24, 24)
    assert found["stacked/attention"].shape == (6, 2, 1, 1, 16)  # rows, hops, 1, 1, image tokens


def _outputs() -> dict[str, Any]:
    made, variables = model()
    return jax.eval_shape(lambda: made.apply(variables, batch())[0])


def test_in_bfloat16_streams_are_so_and_scores_and_weights_are_float32() -> None:
    made = build(config(), Compute(jnp.bfloat16))
    call = Call(train=True, key=jax.random.key(0))
    want = [*LOGITS, "dot_weighted/weights", "convolution/edges", "graph_attention/edges"]
    want += [f"{name}/{field}" for name in FUSIONS for field in ("tokens", "pooled")]
    found, _ = jax.eval_shape(lambda v: made.apply(v, batch(), call, want=want), made.shapes)
    for name in want:
        stream = name.endswith(("/tokens", "/pooled"))
        assert found[name].dtype == (jnp.bfloat16 if stream else jnp.float32), name


def test_pooled_vectors_alone_may_be_given() -> None:
    """In place of the towers, as an objective with mined pairs does."""
    made, variables = model()
    rng = np.random.default_rng(0)
    given = {f"{name}/pooled": rng.normal(size=(4, WIDTH)) for name in ("image", "question")}
    given = {name: jnp.asarray(array, jnp.float32) for name, array in given.items()}
    want = ["sum_answer/logits", "vote/logits", "mfb_answer/logits", "dot_weighted_answer/logits"]
    found = jax.jit(lambda given: made.apply(variables, {}, given=given, want=want)[0])(given)
    assert {found[name].shape for name in want} == {(4, CLASSES)}


@pytest.mark.parametrize(
    ("node", "message"),
    [
        (
            CrossAttention(queries="image", context="question", **STACK),
            "the rows that attend (2) are not a multiple of those of their context (6); let the",
        ),
        (
            GuidedAttention(query="image", context="question", width=WIDTH),
            "the rows of 'image' (2) are not a multiple of those of 'question' (6); give 'image'",
        ),
        (
            Sum(streams=("question", "hint"), width=8),
            "the rows of 'question' (6) are not a multiple of those of 'hint' (4); give 'question'",
        ),
    ],
    ids=lambda value: value.type_name if isinstance(value, Node) else "",
)
def test_streams_whose_rows_do_not_go_together_are_refused(node: Node, message: str) -> None:
    """Two images with three questions and two hints each: when shapes are traced."""
    hint = text(pooling="mean", depth=1)
    of = build(ModelConfig({**towers(), "hint": hint, "fusion": node}), Compute())
    entries = {**batch(), "hint": batch(texts=2)["question"]}
    with pytest.raises(UserError) as error:
        jax.eval_shape(lambda v: of.apply(v, entries, want=["fusion/pooled"]), of.shapes)
    assert str(error.value).startswith(f"model.nodes.fusion: {message}")


STREAMS = {"streams": ("image", "question")}
BOTH = {**STREAMS, "width": 8}


@pytest.mark.parametrize(
    ("node", "message"),
    [
        (Sum(**{**BOTH, "streams": ("image", "qestion")}), "nodes.fusion: reads 'qestion', which"),
        (Sum(**{**BOTH, "streams": ("image",)}), "fusion.streams: names 1 streams; a fusion reads"),
        (Sum(**BOTH, hidden=0), "nodes.fusion.hidden: must be at least 1, not 0"),
        (Concatenation(**BOTH, dropout=1.0), "nodes.fusion.dropout: must be in [0, 1), not 1.0"),
        (Mutan(**BOTH, projected=0), "nodes.fusion.projected: must be at least 1, not 0"),
        (Mfb(**BOTH, factor=0), "nodes.fusion.factor: must be at least 1, not 0"),
        (
            AttentionWeighted(**BOTH, hidden=4),
            "nodes.fusion.hidden: is for learned scores; use None, or score learned",
        ),
        (
            GuidedAttention(query="question", width=8),
            "nodes.fusion.query: 'question' is 32 wide but width is 8; make them equal",
        ),
        (
            GuidedAttention(query="image", context="image", width=32),
            "nodes.fusion.context: is 'image', as query; name another stream",
        ),
        (
            GraphFusion(**BOTH, heads=2),
            "nodes.fusion.heads: are for attention; use 1, or",
        ),
        (
            GraphFusion(**BOTH, layer="attention", heads=3),
            "nodes.fusion.heads: 3 heads do not divide the width 8",
        ),
        (
            GraphFusion(**BOTH, readout=("text",)),
            "nodes.fusion.readout: 'text' is not fused; known: image, question",
        ),
        (
            GraphFusion(**BOTH, readout=()),
            "fusion.readout: names no stream; use None for all",
        ),
        (Decision(**STREAMS, classes=1), "nodes.fusion.classes: must be at least 2, not 1"),
        (
            Decision(**STREAMS, classes=3, rule="product", weights=(1.0, 1.0)),
            "nodes.fusion.weights: are for rule vote, not product; leave them out",
        ),
        (
            Decision(**STREAMS, classes=3, weights=(1.0,)),
            "nodes.fusion.weights: 1 weights for 2 streams; give one for each",
        ),
        (
            Decision(**STREAMS, classes=3, weights=(1.0, 0.0)),
            "nodes.fusion.weights: must be above 0, not 0.0",
        ),
        (
            EmbeddingClassifier(stream="image", classes=3, dim=0),
            "nodes.fusion.dim: must be at least 1, not 0",
        ),
        (
            EmbeddingClassifier(stream="image", classes=3, dim=2, temperature=0.0),
            "nodes.fusion.temperature: must be at least 0.01, not 0.0",
        ),
    ],
    ids=lambda value: value.type_name if isinstance(value, Node) else "",
)
def test_a_fusion_that_does_not_fit_is_refused(node: Node, message: str) -> None:
    with pytest.raises(UserError) as error:
        validate(ModelConfig({**towers(), "fusion": node}))
    assert message in str(error.value)
