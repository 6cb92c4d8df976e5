"""Early fusion against its formulas in float64, and what it does with rows and padding."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.models import reference
from tests.models.fusion.test_cross_attention import batch, made
from tests.models.tiny import float64, text, vit
from vljax.config import UserError, validate
from vljax.models.assembly import ModelConfig, Variables, build
from vljax.models.compute import Call, Compute
from vljax.models.encoders import RegionFeatures
from vljax.models.fusion import SingleStream
from vljax.models.heads import Classifier
from vljax.models.parameters import leaves

SIZES: dict[str, Any] = {"width": 32, "depth": 2, "heads": 4, "mlp_dim": 64}
EVERYTHING = {"embedding_norm": True, "post_norm": True, "pooler": True, "activation": "gelu"}


def config(image: Any = None, **fusion: Any) -> ModelConfig:
    fields = {"streams": ("question", "image"), "scan": False, **SIZES, **fusion}
    return ModelConfig(
        {
            "image": image or vit(image_size=16, depth=0, post_norm=True, pooling="mean"),
            "question": text(depth=0, post_norm=True, embedding_norm=True, pooling="mean"),
            "fusion": SingleStream(**fields),
            "answer": Classifier(stream="fusion", classes=5),
        }
    )


def formula(
    of: SingleStream, params: dict[str, Any], tokens: list[np.ndarray], masks: list[np.ndarray]
) -> tuple[np.ndarray, np.ndarray]:
    """Tokens and pooled vector of one example."""
    p, parts = float64(params), []
    for i, (name, x) in enumerate(zip(of.streams, tokens, strict=True)):
        if name in of.projected:
            x = x @ p[f"project_{name}"]["kernel"] + p[f"project_{name}"]["bias"]
        parts.append(x + p["types"][i] if of.types else x)
    x, mask = np.concatenate(parts), np.concatenate(masks)
    if of.embedding_norm:
        x = reference.layer_norm(x, p["embedding_norm"], of.norm_epsilon)
    x = reference.transformer(p, x[None], mask[None], of, False)[0]
    pooled = x[0] if of.pooling == "first" else x[mask].mean(0)
    if of.pooler:
        pooled = np.tanh(pooled @ p["pooler"]["kernel"] + p["pooler"]["bias"])
    return x, pooled


@pytest.mark.parametrize("wide", [False, True])
@pytest.mark.parametrize("fields", [{}, EVERYTHING, {"types": False, "pooling": "mean"}])
def test_the_joint_stream_is_that_of_the_formula(fields: dict[str, Any], wide: bool) -> None:
    """Its parts and their vectors too; with an image of another width that is projected."""
    image = vit(image_size=16, depth=0, post_norm=True, pooling="mean", width=24) if wide else None
    of = config(image, projected=("image",) if wide else (), **fields)
    model, variables = made(of)
    outputs, _ = model.apply(variables, batch(3))
    fusion = of.nodes["fusion"]
    assert isinstance(fusion, SingleStream)
    for row in range(3):
        streams = [np.asarray(outputs[f"{s}/tokens"][row], np.float64) for s in fusion.streams]
        masks = [np.asarray(outputs[f"{s}/mask"][row]) for s in fusion.streams]
        tokens, pooled = formula(fusion, variables.params["fusion"], streams, masks)
        valid = np.concatenate(masks)
        found = np.asarray(outputs["fusion/tokens"][row])
        np.testing.assert_allclose(found[valid], tokens[valid], rtol=0, atol=2e-5)
        np.testing.assert_allclose(outputs["fusion/pooled"][row], pooled, rtol=0, atol=2e-5)
        words = masks[0]
        np.testing.assert_array_equal(outputs["fusion.question/tokens"][row], found[:8])
        np.testing.assert_array_equal(outputs["fusion.image/tokens"][row], found[8:])
        mean = tokens[:8][words].mean(0)
        np.testing.assert_allclose(outputs["fusion.question/pooled"][row], mean, rtol=0, atol=2e-5)
    np.testing.assert_array_equal(outputs["fusion.image/positions"], outputs["image/positions"])
    assert (outputs["fusion/positions"][:, :8] == -1).all()
    assert (outputs["fusion/positions"][:, 8:] == outputs["image/positions"]).all()


def test_the_word_before_the_end_token_is_pooled() -> None:
    model, variables = made(config(stream_pooling="before_eos"))
    outputs, _ = model.apply(variables, batch(3))
    for row, length in enumerate((3, 4, 5)):
        tokens = outputs["fusion.question/tokens"][row]
        np.testing.assert_array_equal(outputs["fusion.question/pooled"][row], tokens[length - 2])


def test_map_pooling_reads_all_tokens_but_padding() -> None:
    """A learned query attends to the tokens of the joint stream, in float64."""
    of = config(pooling="map")
    model, variables = made(of)
    outputs, _ = model.apply(variables, batch(2))
    params = float64(variables.params["fusion"]["pooling"])
    tokens = np.asarray(outputs["fusion/tokens"], np.float64)
    mask = np.asarray(outputs["fusion/mask"])
    assert not mask.all()
    expected = reference.attention_pooling(params, tokens, mask, of.nodes["fusion"])
    np.testing.assert_allclose(outputs["fusion/pooled"], expected, rtol=0, atol=2e-5)


def test_several_texts_for_an_image_are_as_several_examples() -> None:
    """Dropout included: the rows of the texts are those of an expanded batch."""
    model, variables = made(config(dropout=0.2, drop_path=0.1))
    together = batch(2, texts=3)
    apart = {
        "image": jnp.repeat(together["image"], 3, axis=0),
        "question": together["question"].reshape(6, 8),
        "question_mask": together["question_mask"].reshape(6, 8),
    }
    call = Call(train=True, key=jax.random.key(1))
    apply = jax.jit(lambda batch: model.apply(variables, batch, call)[0]["answer/logits"])
    np.testing.assert_allclose(apply(together), apply(apart), rtol=0, atol=2e-6)
    assert np.abs(apply(together)[0] - apply(together)[1]).max() > 1e-3


def test_scores_depend_on_both_streams_and_not_on_padding() -> None:
    model, variables = made(config(**EVERYTHING))
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
    unrolled, variables = made(config(scan=False))
    scanned = build(config(scan=True), Compute())
    blocks = variables.params["fusion"]["blocks"]
    stacked = jax.tree.map(lambda *x: jnp.stack(x), *(blocks[str(i)] for i in range(2)))
    fusion = {**variables.params["fusion"], "blocks": stacked}
    other = Variables({**variables.params, "fusion": fusion}, {})
    left, right = unrolled.apply(variables, batch(2))[0], scanned.apply(other, batch(2))[0]
    np.testing.assert_allclose(left["answer/logits"], right["answer/logits"], rtol=0, atol=2e-6)


@pytest.mark.parametrize("scan", [False, True])
def test_attention_weights_are_an_output_if_asked_for(scan: bool) -> None:
    """Of all tokens to all, blocks in order; padding gets none."""
    model, variables = made(config(scan=scan, pooling="map"))
    entries = batch(2, texts=3)
    outputs, _ = model.apply(variables, entries, want=["fusion/attention", "answer/logits"])
    weights = outputs["fusion/attention"]
    assert weights.shape == (6, 2, 4, 24, 24)  # rows, blocks, heads, tokens, tokens
    np.testing.assert_allclose(jnp.sum(weights, -1), 1, atol=1e-6)
    padding = ~np.asarray(entries["question_mask"]).reshape(6, 8)
    assert not np.asarray(weights)[..., :8].transpose(0, 4, 1, 2, 3)[padding].any()
    plain, _ = model.apply(variables, entries)
    assert "fusion/attention" not in plain


def test_every_parameter_has_a_finite_gradient() -> None:
    of = config(**EVERYTHING)
    model, variables = made(of)

    def loss(params: Any) -> jax.Array:
        outputs, _ = model.apply(Variables(params, {}), batch(2))
        return jnp.sum(jnp.square(outputs["answer/logits"]))

    for path, gradient in leaves(jax.jit(jax.grad(loss))(variables.params)):
        assert np.isfinite(gradient).all(), path
        if path[-2:] != ("key", "bias"):
            assert np.abs(gradient).max() > 1e-6, path


def test_regions_are_a_linear_map_and_padding_is_ignored() -> None:
    """With the vectors of VisualBERT: the second token type and the first position."""
    regions = RegionFeatures(count=5, dim=12, width=32, token_types=3, positions=4)
    nodes = {**config(streams=("question", "regions")).nodes, "regions": regions}
    del nodes["image"]
    model, variables = made(ModelConfig(nodes))
    rng = np.random.default_rng(0)
    features = rng.standard_normal((2, 5, 12)).astype(np.float32)
    mask = np.arange(5) < np.array([[3], [5]])
    entries = {k: v for k, v in batch(2).items() if k != "image"}
    entries |= {"regions": jnp.asarray(features), "regions_mask": jnp.asarray(mask)}
    outputs, _ = model.apply(variables, entries)
    params = jax.tree.map(lambda x: np.asarray(x, np.float64), variables.params["regions"])
    wanted = features @ params["projection"]["kernel"] + params["projection"]["bias"]
    wanted += params["token_types"][1] + params["positions"][0]
    np.testing.assert_allclose(outputs["regions/tokens"], wanted, rtol=0, atol=1e-5)
    other = np.where(mask[..., None], features, 7).astype(np.float32)
    changed, _ = model.apply(variables, {**entries, "regions": jnp.asarray(other)})
    np.testing.assert_allclose(
        changed["answer/logits"], outputs["answer/logits"], rtol=0, atol=1e-6
    )
    longer = jnp.pad(features, ((0, 0), (0, 2), (0, 0)))
    padded = {**entries, "regions": longer, "regions_mask": jnp.pad(mask, ((0, 0), (0, 2)))}
    again, _ = model.apply(variables, padded)
    np.testing.assert_allclose(again["answer/logits"], outputs["answer/logits"], rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"width": 64}, "'question' is 32 wide but width is 64; make them equal, or name it in"),
        ({"projected": ("imag",)}, "nodes.fusion.projected: 'imag' is not one of the streams"),
        ({"streams": ("question",)}, "nodes.fusion.streams: names 1 streams"),
        ({"streams": ("question", "pic")}, "nodes.fusion: reads 'pic', which no node makes"),
        ({"cross_attention": "after_self"}, "nodes.fusion.cross_attention: all tokens attend"),
        ({"depth": 0}, "nodes.fusion.depth: must be at least 1, not 0"),
        ({"heads": 5}, "nodes.fusion.heads: 5 heads do not divide the width 32"),
    ],
)
def test_a_fusion_that_does_not_fit_is_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError) as error:
        validate(config(**fields))
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"dim": 0}, "dim: must be at least 1, not 0"),
        ({"token_types": 1}, "token_types: must be 0 or at least 2, not 1"),
        ({"positions": -1}, "positions: must be at least 0, not -1"),
    ],
)
def test_regions_that_make_no_sense_are_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError) as error:
        validate(RegionFeatures(**{"count": 5, "dim": 12, "width": 32, **fields}))
    assert message in str(error.value)
