"""Losses on meshes and by tiles against dense ones in float64: values and all gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.objectives import dense
from tests.objectives.cases import BATCH, IMAGE, KINDS, RNG, SCALES, SOME, TEXT, compiled, mesh_of
from vljax.objectives.contrastive import SigmoidContrastive, SoftmaxContrastive
from vljax.objectives.objective import Context
from vljax.parallel.rules import batch_sharding

# Asked of every array. Float32 gives some 3e-7 here, and 1e-6 where scale or distances are large.
TOLERANCE = 1e-5
# One device; the batch split by one axis, by both, and by both beside `tensor`.
MESHES = [(1, 1, 1), (4, 1, 1), (1, 8, 1), (2, 2, 2)]
BY_FOUR = (4, 1, 1), 5


def ours(
    similarity,
    direction,
    sizes=None,
    texts=None,
    *,
    image=IMAGE,
    text=TEXT,
    valid=SOME,
    scale=None,
    dtype=np.float32,
):
    """The loss and its gradients; a mesh by its sizes, and the texts in a tile."""
    sharding = None if sizes is None else batch_sharding(mesh_of(sizes))
    image, text = (jax.device_put(np.asarray(x, dtype), sharding) for x in (image, text))
    scale = dtype(SCALES[similarity] if scale is None else scale)
    function = compiled(similarity, direction, sizes, texts)
    value, gradients = function(image, text, scale, dtype(-3), valid)
    return value, *gradients


def check(result, similarity, direction, *, valid=SOME, scale=None, tolerance=TOLERANCE):
    scale = SCALES[similarity] if scale is None else scale
    truth = dense.value_and_gradients(IMAGE, TEXT, valid, similarity, direction, scale, -3.0)
    count = 4 if direction else 5  # the softmax does not depend on a bias
    names = ("loss", "image", "text", "scale", "bias")[:count]
    errors = {n: dense.distance(*both) for n, *both in zip(names, result, truth, strict=False)}
    assert max(errors.values()) < tolerance, errors
    for gradient in result[1:3]:
        np.testing.assert_array_equal(np.asarray(gradient)[~valid], 0)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("sizes", MESHES, ids=str)
def test_any_mesh_gives_the_dense_loss_and_gradients(sizes, kind):
    # Tiles of 5 leave a rest in blocks of 6, 12 and 48.
    check(ours("cosine", KINDS[kind], sizes, 5), "cosine", KINDS[kind])


# The similarity decides on the factors of the logits, the direction on what is done with logits.
COMBINATIONS = [
    *(("cosine", "image_to_text"), ("cosine", "text_to_image")),
    *(("dot", "both"), ("dot", None)),
    *(("euclidean", "both"), ("euclidean", None)),
]


@pytest.mark.parametrize(("similarity", "direction"), COMBINATIONS)
def test_any_similarity_and_direction(similarity, direction):
    check(ours(similarity, direction, (2, 2, 1), 4), similarity, direction)


@pytest.mark.parametrize("texts", [None, 1, 7, 16, 47])
@pytest.mark.parametrize("kind", KINDS)
def test_any_tile_on_one_device(kind, texts):
    check(ours("cosine", KINDS[kind], texts=texts), "cosine", KINDS[kind])


@pytest.mark.parametrize("kind", KINDS)
def test_float64_is_kept(kind):
    """To 1e-12: nothing on the way is float32."""
    with jax.enable_x64():
        result = ours("euclidean", KINDS[kind], (2, 1, 1), 10, dtype=np.float64)
        check(result, "euclidean", KINDS[kind], tolerance=1e-12)


def test_distances_far_from_the_origin():
    """The loss depends on differences only, so a shift of all embeddings must not cost digits."""
    result = ours("euclidean", "both", image=IMAGE + 10, text=TEXT + 10)
    # Inputs near 10 are rounded to 1e-6 of differences near 1.
    check(result, "euclidean", "both")


@pytest.mark.parametrize("kind", KINDS)
def test_bfloat16_embeddings_are_cast_up(kind):
    image, text = (jnp.asarray(x, jnp.bfloat16) for x in (IMAGE, TEXT))
    function = compiled("cosine", KINDS[kind], *BY_FOUR)
    value, (gradient, *_) = function(image, text, np.float32(14), np.float32(-3), SOME)
    rounded = np.asarray(image, np.float64), np.asarray(text, np.float64)
    truth = dense.value_and_gradients(*rounded, SOME, "cosine", KINDS[kind], 14.0, -3.0)
    assert dense.distance(value, truth[0]) < 1e-6
    assert gradient.dtype == jnp.bfloat16
    # bfloat16 has 8 bits: each entry is off by at most 2^-9 of itself.
    assert dense.distance(gradient, truth[1]) < 2**-9


@pytest.mark.parametrize("kind", KINDS)
def test_saturated_logits(kind):
    """Where pairs are certain, float32 still gives the tiny loss: 1 - p is never computed."""
    image = np.float32(IMAGE)
    text = image + np.float32(0.3 * RNG.normal(size=IMAGE.shape))
    value, *gradients = ours("cosine", KINDS[kind], *BY_FOUR, image=image, text=text, scale=60)
    truth = dense.value_and_gradients(image, text, SOME, "cosine", KINDS[kind], 60.0, -3.0)
    assert kind == "sigmoid" or truth[0] < 1e-8
    # Logits near 60 are rounded to 4e-6, which is the relative error of their exponentials.
    errors = [dense.distance(*x) for x in zip((value, *gradients[:3]), truth[:4], strict=True)]
    assert max(errors) < 3e-5, errors

    value, *gradients = ours("cosine", KINDS[kind], *BY_FOUR, image=image, text=-text, scale=1e4)
    assert value > 1e3
    assert all(np.isfinite(x).all() for x in (value, *gradients))


@pytest.mark.parametrize(
    ("direction", "sizes", "texts"),
    [
        *(("both", (1, 1, 1), 5), (None, (1, 1, 1), 5)),
        *(("both", *BY_FOUR), (None, *BY_FOUR)),
        *(("image_to_text", (2, 2, 1), 4), ("text_to_image", (2, 2, 1), 4)),
    ],
)
def test_a_batch_without_valid_examples_gives_zero(direction, sizes, texts):
    for x in ours("cosine", direction, sizes, texts, valid=np.zeros(BATCH, bool)):
        np.testing.assert_array_equal(x, 0)


@pytest.mark.parametrize("kind", KINDS)
def test_one_valid_example_has_no_negatives(kind):
    one = np.arange(BATCH) == 29
    result = ours("dot", KINDS[kind], (2, 2, 1), 4, valid=one)
    if kind == "softmax":
        for x in result:
            np.testing.assert_array_equal(x, 0)
    else:
        check(result, "dot", None, valid=one)


@pytest.mark.parametrize("kind", KINDS)
def test_embeddings_of_invalid_examples_have_no_influence(kind):
    garbage = np.where(SOME[:, None], IMAGE, np.nan)
    clean, dirty = (
        ours("euclidean", KINDS[kind], (2, 2, 1), 4, image=image) for image in (IMAGE, garbage)
    )
    jax.tree.map(np.testing.assert_array_equal, clean, dirty)


OBJECTIVES = {"softmax": SoftmaxContrastive(), "sigmoid": SigmoidContrastive()}


def step_of(objective, mesh):
    """Loss, accuracy and gradients of an objective, as the training step asks for them."""

    def loss(embeddings, scalars, batch):
        ctx = Context(lambda *_: embeddings | scalars, batch, mesh)
        result = objective(ctx, batch, jax.random.key(0))
        return result.loss, result.metrics["accuracy"]

    return jax.jit(jax.value_and_grad(loss, (0, 1), has_aux=True), donate_argnums=0)


def inputs(mesh, image=IMAGE, text=TEXT, valid=SOME):
    sharding = batch_sharding(mesh)
    embeddings = {"image/embedding": np.float32(image), "text/embedding": np.float32(text)}
    scalars = {"logit_scale": jnp.float32(2.0), "logit_bias": jnp.float32(-3.0)}
    return jax.device_put(embeddings, sharding), scalars, jax.device_put({"valid": valid}, sharding)


@pytest.mark.parametrize("kind", KINDS)
def test_objectives_use_the_mesh_of_their_context(kind):
    mesh = mesh_of((2, 2, 2))
    program = step_of(OBJECTIVES[kind], mesh).lower(*inputs(mesh)).compile()
    assert "collective-permute" in program.as_text()
    (value, accuracy), (gradients, scalars) = program(*inputs(mesh))
    # Of the log of the scale; the softmax has no bias.
    by_scalars = scalars["logit_scale"] / np.exp(2.0), scalars["logit_bias"]
    named = gradients["image/embedding"], gradients["text/embedding"], *by_scalars
    check((value, *named), "cosine", KINDS[kind], scale=np.exp(2.0))
    logits = np.asarray(dense.logits(IMAGE[SOME], TEXT[SOME], "cosine"))
    hits = np.argmax(logits, axis=1) == np.arange(len(logits))
    assert accuracy == pytest.approx(np.mean(hits))
    assert 0.2 < accuracy < 1


@pytest.mark.parametrize("kind", KINDS)
def test_equal_embeddings_have_no_accuracy(kind):
    """Ties count against the model, also where rounding breaks them."""
    mesh = mesh_of((4, 1, 1))
    same = np.tile(np.random.default_rng(1).normal(size=(1, 512)), (BATCH, 1))
    (_, accuracy), _ = step_of(OBJECTIVES[kind], mesh)(*inputs(mesh, same, same))
    assert accuracy == 0
