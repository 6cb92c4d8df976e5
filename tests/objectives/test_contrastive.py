"""Contrastive losses against the papers' formulas in float64 NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vljax import config
from vljax.config import UserError
from vljax.objectives.contrastive import (
    SigmoidContrastive,
    SoftmaxContrastive,
    sigmoid_loss,
    softmax_loss,
)
from vljax.objectives.objective import Context
from vljax.objectives.pair_logits import pair_logits

BATCH, DIM = 12, 7
# The relative error of a float32 reduction over 12 terms; the issue asks for 1e-6.
TOLERANCE = 1e-6


@pytest.fixture
def embeddings():
    rng = np.random.default_rng(0)
    image, text = rng.normal(size=(2, BATCH, DIM))
    return image, text + 0.5 * image


def reference_similarities(image, text, similarity):
    out = np.zeros((len(image), len(text)))
    for i, x in enumerate(image):
        for j, y in enumerate(text):
            if similarity == "cosine":
                out[i, j] = (x @ y) / (np.sqrt(x @ x) * np.sqrt(y @ y))
            elif similarity == "dot":
                out[i, j] = x @ y
            else:
                out[i, j] = -np.sum((x - y) ** 2)
    return out


def reference_softmax(logits, valid, direction):
    """Mean over valid examples of -log(exp(l_ii) / sum_j exp(l_ij)), by the definition."""
    keep = np.flatnonzero(valid)
    logits = logits[np.ix_(keep, keep)]
    image_to_text = np.mean([-np.log(np.exp(r[i]) / np.exp(r).sum()) for i, r in enumerate(logits)])
    text_to_image = np.mean(
        [-np.log(np.exp(c[i]) / np.exp(c).sum()) for i, c in enumerate(logits.T)]
    )
    both = (image_to_text + text_to_image) / 2
    return {"image_to_text": image_to_text, "text_to_image": text_to_image, "both": both}[direction]


def reference_sigmoid(logits, valid):
    """Zhai et al. 2023, eq. 1: -1/|B| sum_ij log 1 / (1 + exp(z_ij (-t x.y - b)))."""
    keep = np.flatnonzero(valid)
    logits = logits[np.ix_(keep, keep)]
    total = 0.0
    for i in range(len(keep)):
        for j in range(len(keep)):
            z = 1 if i == j else -1
            total += np.log(1 / (1 + np.exp(z * -logits[i, j])))
    return -total / len(keep)


VALID = {
    "all": np.ones(BATCH, bool),
    "some": np.arange(BATCH) % 3 != 1,
    "one": np.arange(BATCH) == 4,
}


def of_logits(logits, valid=None):
    """`PairLogits` of the given logits: the products of their rows with unit vectors."""
    logits = jnp.float32(logits)
    valid = np.ones(len(logits), bool) if valid is None else valid
    return pair_logits(logits, jnp.eye(len(logits)), jnp.asarray(valid), "dot")


def softmax(logits, valid=None, direction="both"):
    return softmax_loss(of_logits(logits, valid), direction).loss


def sigmoid(logits, valid=None):
    return sigmoid_loss(of_logits(logits, valid)).loss


LOSSES = {"softmax": softmax, "sigmoid": sigmoid}


@pytest.mark.parametrize("direction", ["both", "image_to_text", "text_to_image"])
@pytest.mark.parametrize("valid", VALID.values(), ids=VALID)
def test_softmax_loss(embeddings, direction, valid):
    logits = 10 * reference_similarities(*embeddings, "cosine")
    ours = softmax(logits, valid, direction)
    truth = reference_softmax(logits, valid, direction)
    np.testing.assert_allclose(ours, truth, rtol=TOLERANCE, atol=TOLERANCE)


@pytest.mark.parametrize("valid", VALID.values(), ids=VALID)
def test_sigmoid_loss(embeddings, valid):
    logits = 10 * reference_similarities(*embeddings, "cosine") - 10
    ours = sigmoid(logits, valid)
    np.testing.assert_allclose(ours, reference_sigmoid(logits, valid), rtol=TOLERANCE)


def finite_difference(function, x, epsilon=1e-6):
    gradient = np.zeros_like(x)
    for index in np.ndindex(*x.shape):
        step = np.zeros_like(x)
        step[index] = epsilon
        gradient[index] = (function(x + step) - function(x - step)) / (2 * epsilon)
    return gradient


@pytest.mark.parametrize("name", LOSSES)
def test_gradient_against_finite_differences_in_float64(embeddings, name):
    valid = VALID["some"]
    logits = 5 * reference_similarities(*embeddings, "cosine")
    reference = {"softmax": lambda x: reference_softmax(x, valid, "both")}.get(
        name, lambda x: reference_sigmoid(x, valid)
    )
    ours = jax.grad(LOSSES[name])(jnp.float32(logits), valid)
    # Central differences themselves are good to about 1e-9.
    np.testing.assert_allclose(ours, finite_difference(reference, logits), atol=1e-7)


@pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES)
def test_invalid_examples_have_no_influence(loss):
    logits = np.random.default_rng(1).normal(size=(BATCH, BATCH)).astype(np.float32)
    valid = VALID["some"]
    garbage = np.where(valid[:, None], np.where(valid, logits, 1e6), np.nan)
    value, gradient = jax.value_and_grad(loss)(jnp.asarray(logits), valid)
    assert np.all(np.asarray(gradient)[~valid] == 0)
    assert np.all(np.asarray(gradient)[:, ~valid] == 0)
    np.testing.assert_array_equal(loss(garbage, valid), value)


@pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES)
def test_a_batch_without_valid_examples_gives_zero(loss):
    value, gradient = jax.value_and_grad(loss)(jnp.ones((4, 4)), np.zeros(4, bool))
    assert value == 0
    np.testing.assert_array_equal(gradient, 0)


@pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES)
def test_large_logits_stay_finite(loss):
    value, gradient = jax.value_and_grad(loss)(5e3 - 1e4 * jnp.eye(4))
    assert jnp.isfinite(value)
    assert jnp.isfinite(gradient).all()


@pytest.mark.parametrize("loss", [softmax_loss, sigmoid_loss])
def test_accuracy_counts_valid_examples_only(loss):
    logits = jnp.array([[1.0, 2.0, 9.0], [0.0, 3.0, 9.0], [0.0, 0.0, 1.0]])
    assert loss(of_logits(logits, np.array([True, True, False]))).accuracy == pytest.approx(0.5)


@pytest.mark.parametrize("loss", [softmax_loss, sigmoid_loss])
def test_ties_count_against_accuracy(loss):
    assert loss(of_logits([[1.0, 1.0], [0.0, 1.0]])).accuracy == pytest.approx(0.5)


@pytest.mark.parametrize("direction", ["both", "image_to_text", "text_to_image"])
def test_accuracy_is_that_of_images_in_any_direction(direction):
    logits = [[3.0, 2.0, 1.0], [0.0, 1.0, 2.0], [5.0, 0.0, 4.0]]
    assert softmax_loss(of_logits(logits), direction).accuracy == pytest.approx(1 / 3)


def run(objective, embeddings, **scalars):
    image, text = map(jnp.float32, embeddings)
    outputs = {"image/embedding": image, "text/embedding": text}
    outputs |= {name: jnp.float32(value) for name, value in scalars.items()}
    batch = {"valid": jnp.ones(BATCH, bool)}
    return objective(Context(lambda *_: outputs, batch), batch, jax.random.key(0))


def test_clip_is_the_softmax_of_scaled_cosines(embeddings):
    result = run(SoftmaxContrastive(), embeddings, logit_scale=np.log(20.0))
    logits = 20 * reference_similarities(*embeddings, "cosine")
    truth = reference_softmax(logits, VALID["all"], "both")
    np.testing.assert_allclose(result.loss, truth, rtol=TOLERANCE)
    assert result.metrics["logit_scale"] == pytest.approx(20, rel=1e-6)


def test_siglip_is_the_sigmoid_of_scaled_and_biased_cosines(embeddings):
    result = run(SigmoidContrastive(), embeddings, logit_scale=np.log(10.0), logit_bias=-10.0)
    logits = 10 * reference_similarities(*embeddings, "cosine") - 10
    np.testing.assert_allclose(result.loss, reference_sigmoid(logits, VALID["all"]), rtol=TOLERANCE)


def test_learned_scalars_begin_as_in_the_papers():
    clip, siglip = SoftmaxContrastive().scalars(), SigmoidContrastive().scalars()
    assert clip["logit_scale"].initial == pytest.approx(
        np.log(1 / 0.07)
    )  # Radford et al. 2021, 2.5
    assert clip["logit_scale"].high == pytest.approx(np.log(100))
    assert siglip["logit_scale"].initial == pytest.approx(np.log(10))  # Zhai et al. 2023, 3.2
    assert siglip["logit_bias"].initial == -10
    assert siglip["logit_scale"].high == np.inf


@pytest.mark.parametrize(
    ("objective", "message"),
    [
        (SoftmaxContrastive(temperature=0.0), "temperature: must be positive, not 0.0"),
        (SoftmaxContrastive(temperature=0.001), "exceeds max_scale (100.0)"),
        (SoftmaxContrastive(max_scale=0.0), "max_scale: must be positive, or None for no limit"),
        (SigmoidContrastive(max_scale=-1.0), "max_scale: must be positive, or None for no limit"),
        (SigmoidContrastive(weight=float("nan")), "weight: must be finite, got nan"),
    ],
)
def test_bad_fields(objective, message):
    with pytest.raises(UserError) as error:
        config.validate(objective)
    assert message in str(error.value)
