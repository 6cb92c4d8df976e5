"""Attention over streams, and over tokens by a question, against their formulas in float64."""

import jax
import numpy as np
import pytest

from tests.models.fusion.streams import linear, made, softmax, stream
from vljax.models.compute import Call, Compute
from vljax.models.fusion import AttentionWeighted, GuidedAttention

INPUTS = {"image": stream(2, 5, 6, padded=True), "question": stream(6, 4, 8, 1)}
NAMES = ("image", "question")


@pytest.mark.parametrize("score", ["dot", "learned"])
def test_weights_are_a_softmax_of_scores_over_the_streams(score) -> None:
    """Two images with three questions each."""
    hidden = 3 if score == "learned" else None
    node = AttentionWeighted(streams=NAMES, width=7, score=score, hidden=hidden)
    products, params = made(node, INPUTS)
    image = np.repeat(np.asarray(INPUTS["image"].pooled), 3, axis=0)
    f_image, f_question = (
        np.tanh(linear(params["project"][name], x))
        for name, x in (("image", image), ("question", INPUTS["question"].pooled))
    )
    if score == "dot":
        scores = [f @ params["query"] / np.sqrt(7) for f in (f_image, f_question)]
        scores = np.stack(scores, axis=1)
    else:
        both = np.concatenate([f_image, f_question], axis=1)
        scores = linear(params["scores"], np.tanh(linear(params["hidden"], both)))
    weights = softmax(scores)
    np.testing.assert_allclose(products["fusion/weights"], weights, rtol=1e-5)
    expected = weights[:, :1] * f_image + weights[:, 1:] * f_question
    np.testing.assert_allclose(products["fusion"].pooled, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("result", ["refined", "attended"])
@pytest.mark.parametrize("hops", [1, 2])
def test_guided_attention_is_that_of_stacked_attention_networks(hops, result) -> None:
    """Row by row, token by token."""
    node = GuidedAttention(query="question", width=8, hidden=3, hops=hops, result=result)
    products, params = made(node, INPUTS)
    image, questions = INPUTS["image"], np.asarray(INPUTS["question"].pooled, np.float64)
    for row, u in enumerate(questions):
        tokens = np.asarray(image.tokens[row // 3])[np.asarray(image.mask[row // 3])]
        v = np.tanh(linear(params["project"], tokens))
        for i in range(hops):
            hop = params[f"hop_{i}"]
            h = np.tanh(linear(hop["tokens"], v) + linear(hop["query"], u))
            p = softmax((h @ hop["scores"]["kernel"])[:, 0])
            attended = p @ v
            u = u + attended
        expected = u if result == "refined" else attended
        np.testing.assert_allclose(products["fusion"].pooled[row], expected, rtol=1e-5, atol=1e-6)


def test_the_weights_of_the_hops_are_sown_if_asked_for() -> None:
    """One head and one query for each hop; they sum to 1 and are 0 for padding."""
    node = GuidedAttention(query="question", width=8, hops=2)
    module = node.module(Compute(), "fusion")
    variables = module.init(jax.random.key(0), INPUTS, Call())
    assert "intermediates" not in variables
    call = Call(attention=True)
    _, state = module.apply(variables, INPUTS, call, mutable=["intermediates"])
    for i in range(2):
        (weights,) = state["intermediates"][f"hop_{i}"]["cross_attention"]
        assert weights.shape == (6, 1, 1, 5)
        np.testing.assert_allclose(weights.sum(-1), 1, rtol=1e-6)
        assert (weights[:3, 0, 0, 2:] == 0).all()
        assert (weights[:3, 0, 0, :2] > 0).all()
