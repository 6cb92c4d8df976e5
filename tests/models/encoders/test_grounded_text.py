"""Texts encoded alone and grounded in an image. BLIP itself: tests/interop."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.models import reference
from tests.models.tiny import STACK, float64, images, randomised, text, token_ids, vit
from vljax.config import UserError, validate
from vljax.models.assembly import Model, ModelConfig, Variables, build
from vljax.models.compute import Call, Compute
from vljax.models.encoders import GroundedText
from vljax.models.heads import Classifier

OUTPUTS = ("text/tokens", "text.grounded/tokens", "match/logits")


def made(**fields: Any) -> tuple[Model, Variables, GroundedText]:
    sizes = {**STACK, "vocab_size": 23, "context_length": 8, "pooling": "first", "scan": False}
    words = GroundedText(**{**sizes, **fields})
    nodes = {
        "image": vit(width=24, heads=3, pooling="mean"),
        "text": words,
        "match": Classifier(stream="text.grounded", classes=2),
    }
    model = build(ModelConfig(nodes), Compute())
    params = jax.tree.map(jnp.asarray, randomised(model.shapes.params))
    return model, Variables(params, {}), words


def batch(rows: int, texts: int | None = None) -> dict[str, Any]:
    count = rows * (texts or 1)
    ids, mask = token_ids(count, 8), np.arange(8) < 3 + np.arange(count)[:, None] % 5
    if texts is not None:
        ids, mask = ids.reshape(rows, texts, 8), mask.reshape(rows, texts, 8)
    entries = {"image": images(rows, 16, 16), "text": ids, "text_mask": mask}
    return {name: jnp.asarray(array) for name, array in entries.items()}


@pytest.mark.parametrize("order", ["after_self", "before_self"])
def test_both_streams_are_those_of_the_formula(order: str) -> None:
    model, variables, words = made(cross_attention=order)
    entries = batch(2)
    found, _ = jax.jit(model.apply)(variables, entries)
    params = float64(variables.params["text"])
    x = params["embedding"][entries["text"]] + params["positions"]
    mask, image = np.asarray(entries["text_mask"]), np.asarray(found["image/tokens"], np.float64)
    alone = text(post_norm=words.post_norm)
    tokens = reference.transformer(params, x, mask, alone, False)
    np.testing.assert_allclose(found["text/tokens"], tokens, rtol=0, atol=2e-5)
    everywhere = np.ones(image.shape[:2], bool)
    grounded = reference.transformer(params, x, mask, words, False, image, everywhere)
    np.testing.assert_allclose(found["text.grounded/tokens"], grounded, rtol=0, atol=2e-5)
    head = float64(variables.params["match"])["logits"]
    scores = grounded[:, 0] @ head["kernel"] + head["bias"]
    np.testing.assert_allclose(found["match/logits"], scores, rtol=0, atol=5e-5)


def test_scanned_and_unrolled_blocks_compute_the_same() -> None:
    unrolled, variables, _ = made()
    scanned, _, _ = made(scan=True)
    blocks = variables.params["text"]["blocks"]
    stacked = jax.tree.map(lambda *x: jnp.stack(x), *(blocks[str(i)] for i in range(2)))
    params = dict(variables.params)
    params["text"] = {**params["text"], "blocks": stacked}
    left, right = (
        unrolled.apply(variables, batch(2))[0],
        scanned.apply(Variables(params, {}), batch(2))[0],
    )
    for name in OUTPUTS:
        np.testing.assert_allclose(left[name], right[name], rtol=0, atol=1e-5, err_msg=name)


def test_several_texts_for_an_image_are_as_several_examples() -> None:
    """Dropout included: the rows of the texts are those of an expanded batch."""
    model, variables, _ = made(dropout=0.2)
    together = batch(2, texts=3)
    apart = {
        "image": jnp.repeat(together["image"], 3, axis=0),
        "text": together["text"].reshape(6, 8),
        "text_mask": together["text_mask"].reshape(6, 8),
    }
    call = Call(train=True, key=jax.random.key(1))
    apply = jax.jit(lambda batch: model.apply(variables, batch, call)[0])
    left, right = apply(together), apply(apart)
    for name in OUTPUTS:
        np.testing.assert_allclose(left[name], right[name], rtol=0, atol=1e-5, err_msg=name)


def test_only_the_grounded_stream_reads_the_image_and_none_reads_padding() -> None:
    model, variables, _ = made()
    apply = jax.jit(lambda batch: model.apply(variables, batch)[0])
    first = batch(2)
    before, mask = apply(first), first["text_mask"]
    hidden = apply({**first, "text": jnp.where(mask, first["text"], 1)})
    np.testing.assert_allclose(hidden["match/logits"], before["match/logits"], rtol=0, atol=1e-5)
    other = apply({**first, "image": 255 - first["image"]})
    assert np.abs(other["match/logits"] - before["match/logits"]).max() > 1e-3
    np.testing.assert_array_equal(other["text/tokens"], before["text/tokens"])
    words = {name: array for name, array in first.items() if name != "image"}
    alone, _ = model.apply(variables, words, want=["text/tokens"])
    np.testing.assert_allclose(alone["text/tokens"], before["text/tokens"], rtol=0, atol=1e-6)


def test_what_does_not_ground_the_text_is_refused() -> None:
    sizes = {**STACK, "vocab_size": 23, "context_length": 8}
    with pytest.raises(UserError, match="cross_attention: is what grounds the text"):
        validate(GroundedText(**sizes, cross_attention="none"))
    with pytest.raises(UserError, match=r"nodes.text: reads 'image', which no node makes"):
        validate(ModelConfig({"text": GroundedText(**sizes)}))
