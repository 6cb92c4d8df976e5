"""Losses on meshes and by tiles against dense ones in float64: values and all gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.objectives import dense
from tests.objectives.cases import BATCH, IMAGE, KINDS, RNG, SCALES, SOME, TEXT, loss_of, mesh_of
from vljax.objectives.contrastive import SigmoidContrastive, SoftmaxContrastive
from vljax.objectives.objective import Context
from vljax.objectives.pair_logits import Layout
from vljax.parallel.rules import batch_sharding

# Asked of every array. Float32 gives some 3e-7 here, and 1e-6 where scale or distances are large.
TOLERANCE = 1e-5
MESHES = [
    *((1, 1, 1), (2, 1, 1), (4, 1, 1), (8, 1, 1)),
    *((2, 2, 2), (1, 8, 1), (4, 1, 2), (1, 4, 2)),
]


def ours(valid, similarity, direction, layout, scale, bias=-3.0, dtype=np.float32, shift=0.0):
    place = None if layout.mesh is None else batch_sharding(layout.mesh)
    image, text = (jax.device_put((x + shift).astype(dtype), place) for x in (IMAGE, TEXT))
    function = jax.value_and_grad(loss_of(valid, similarity, direction, layout), (0, 1, 2, 3))
    value, gradients = jax.jit(function)(image, text, dtype(scale), dtype(bias))
    return value, *gradients


def check(result, valid, similarity, direction, scale, bias=-3.0, tolerance=TOLERANCE):
    truth = dense.value_and_gradients(IMAGE, TEXT, valid, similarity, direction, scale, bias)
    count = 4 if direction else 5  # the softmax does not depend on a bias
    names = ("loss", "image", "text", "scale", "bias")[:count]
    errors = {n: dense.distance(*both) for n, *both in zip(names, result, truth, strict=False)}
    assert max(errors.values()) < tolerance, errors
    for gradient in result[1:3]:
        np.testing.assert_array_equal(np.asarray(gradient)[~valid], 0)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("sizes", MESHES, ids=str)
def test_any_mesh_gives_the_dense_loss_and_gradients(sizes, kind):
    # Tiles of 5 leave a rest in blocks of 6, 12, 24 and 48.
    result = ours(SOME, "cosine", KINDS[kind], Layout(mesh_of(sizes), 5), SCALES["cosine"])
    check(result, SOME, "cosine", KINDS[kind], SCALES["cosine"])


@pytest.mark.parametrize("direction", ["both", "image_to_text", "text_to_image", None])
@pytest.mark.parametrize("similarity", SCALES)
def test_any_similarity_and_direction(similarity, direction):
    layout, scale = Layout(mesh_of((2, 2, 1)), 4), SCALES[similarity]
    check(ours(SOME, similarity, direction, layout, scale), SOME, similarity, direction, scale)


@pytest.mark.parametrize("chunk", [None, 1, 7, 16, 47])
@pytest.mark.parametrize("kind", KINDS)
def test_any_tile_on_one_device(kind, chunk):
    result = ours(SOME, "cosine", KINDS[kind], Layout(chunk=chunk), SCALES["cosine"])
    check(result, SOME, "cosine", KINDS[kind], SCALES["cosine"])


@pytest.mark.parametrize("kind", KINDS)
def test_float64_is_kept(kind):
    """To 1e-12: nothing on the way is float32."""
    with jax.enable_x64():
        layout = Layout(mesh_of((2, 1, 1)), 10)
        result = ours(SOME, "euclidean", KINDS[kind], layout, 0.3, dtype=np.float64)
        check(result, SOME, "euclidean", KINDS[kind], 0.3, tolerance=1e-12)


def test_distances_far_from_the_origin():
    """The loss depends on differences only, so a shift of all embeddings must not cost digits."""
    result = ours(SOME, "euclidean", "both", Layout(), 0.3, shift=10.0)
    # Inputs near 10 are rounded to 1e-6 of differences near 1.
    check(result, SOME, "euclidean", "both", 0.3)


@pytest.mark.parametrize("kind", KINDS)
def test_bfloat16_embeddings_are_cast_up(kind):
    image, text = (jnp.asarray(x, jnp.bfloat16) for x in (IMAGE, TEXT))
    loss = loss_of(SOME, "cosine", KINDS[kind], Layout(mesh_of((4, 1, 1))))
    value, gradient = jax.jit(jax.value_and_grad(loss))(image, text, 14.0, -3.0)
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
    loss = loss_of(SOME, "cosine", KINDS[kind], Layout(mesh_of((4, 1, 1)), 5))
    function = jax.jit(jax.value_and_grad(loss, (0, 1, 2)))

    value, gradients = function(image, text, np.float32(60), np.float32(-3))
    truth = dense.value_and_gradients(image, text, SOME, "cosine", KINDS[kind], 60.0, -3.0)
    assert kind == "sigmoid" or truth[0] < 1e-8
    # Logits near 60 are rounded to 4e-6, which is the relative error of their exponentials.
    errors = [dense.distance(*x) for x in zip((value, *gradients), truth[:4], strict=True)]
    assert max(errors) < 3e-5, errors

    value, gradients = function(image, -text, np.float32(1e4), np.float32(-3))
    assert value > 1e3
    assert all(np.isfinite(x).all() for x in (value, *gradients))


@pytest.mark.parametrize("sizes", [(1, 1, 1), (4, 1, 1)], ids=str)
@pytest.mark.parametrize("direction", ["both", "image_to_text", "text_to_image", None])
def test_a_batch_without_valid_examples_gives_zero(direction, sizes):
    none = np.zeros(BATCH, bool)
    for x in ours(none, "cosine", direction, Layout(mesh_of(sizes), 5), 14.0):
        np.testing.assert_array_equal(x, 0)


@pytest.mark.parametrize("kind", KINDS)
def test_one_valid_example_has_no_negatives(kind):
    one = np.arange(BATCH) == 29
    result = ours(one, "dot", KINDS[kind], Layout(mesh_of((4, 1, 1)), 5), 0.3)
    if kind == "softmax":
        for x in result:
            np.testing.assert_array_equal(x, 0)
    else:
        check(result, one, "dot", None, 0.3)


@pytest.mark.parametrize("kind", KINDS)
def test_embeddings_of_invalid_examples_have_no_influence(kind):
    garbage = np.where(SOME[:, None], IMAGE, np.nan).astype(np.float32)
    loss = loss_of(SOME, "euclidean", KINDS[kind], Layout(mesh_of((4, 1, 1)), 5))
    function = jax.jit(jax.value_and_grad(loss, (0, 1)))
    clean, dirty = (
        function(jnp.float32(image), jnp.float32(TEXT), 0.3, -3.0) for image in (IMAGE, garbage)
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
    place = batch_sharding(mesh)
    embeddings = {"image/embedding": np.float32(image), "text/embedding": np.float32(text)}
    scalars = {"logit_scale": jnp.float32(2.0), "logit_bias": jnp.float32(-3.0)}
    return jax.device_put(embeddings, place), scalars, jax.device_put({"valid": valid}, place)


@pytest.mark.parametrize("kind", KINDS)
def test_objectives_use_the_mesh_of_their_context(kind):
    mesh = mesh_of((2, 2, 2))
    program = step_of(OBJECTIVES[kind], mesh).lower(*inputs(mesh)).compile()
    assert "collective-permute" in program.as_text()
    (value, accuracy), (gradients, scalars) = program(*inputs(mesh))
    # Of the log of the scale; the softmax has no bias.
    slopes = scalars["logit_scale"] / np.exp(2.0), scalars["logit_bias"]
    named = gradients["image/embedding"], gradients["text/embedding"], *slopes
    check((value, *named), SOME, "cosine", KINDS[kind], np.exp(2.0))
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
