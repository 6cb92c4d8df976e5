"""Loss and gradients of visual question answering, on meshes of eight devices and in parts."""

import dataclasses
import functools
import math

import jax
import numpy as np
import pytest

from tests.models.fusion.streams import decisions, fusions
from vljax import config
from vljax.data.transforms import DecodeFeatures
from vljax.models.encoders import GroundedText, RegionEncoder, ViT
from vljax.models.filters import Gate, ModalityDropout
from vljax.models.fusion import (
    CoAttention,
    Decision,
    GatedCrossAttention,
    QFormer,
    Resampler,
    SingleStream,
)
from vljax.models.heads import Classifier, EmbeddingClassifier
from vljax.models.node import Node
from vljax.models.parameters import leaves
from vljax.objectives import BalancedClassification, Classification
from vljax.parallel.mesh import MeshConfig
from vljax.parallel.rules import batch_sharding, replicated
from vljax.run import Run, prepare
from vljax.training.step import gradients_of

BATCH, INVALID = 16, 3
# Changes of nodes: small widths, and dropout, which is keyed by the index of each question.
TRANSFORMER = {"width": 32, "heads": 8, "mlp_dim": 64, "dropout": 0.1}
SMALL = {"image": {"width": 32, "depth": 1}, "question": TRANSFORMER}
# Scanned layers, and a hidden layer as in the full recipe. Image tokens have a width of their own.
VIT = ViT(
    image_size=64, patch_size=8, width=64, depth=2, heads=8, mlp_dim=64, pooling="mean", scan=True
)
VARIANTS = {
    "conv_grid": {**SMALL, "fusion": {**TRANSFORMER, "depth": 1}},
    "vit": {
        "image": VIT,
        "question": TRANSFORMER,
        "fusion": {**TRANSFORMER, "scan": True},
        "answer": {"hidden": 64},
    },
    # As in LXMERT: one cross-attention for both directions, of words and of regions.
    "co_attention": {
        **SMALL,
        "regions": RegionEncoder(regions=3, feature_dim=6, depth=1, post_norm=True, **TRANSFORMER),
        "fusion": CoAttention(
            streams=("question", "regions"),
            cross_attention="before_self",
            shared=True,
            post_norm=True,
            poolers=("question",),
            depth=2,
            **TRANSFORMER,
        ),
        "answer": {"stream": "fusion.question"},
    },
    # All fusions of vectors, graphs and decisions in one model, each with an objective.
    "pooled": SMALL,
    # Learned queries of the image, of these with the question, and a gated fusion of the latter.
    "queries": {
        **SMALL,
        "summary": Resampler(num_queries=4, depth=1, input_projection=True, **TRANSFORMER),
        "former": QFormer(
            context="summary", text="question", num_queries=4, depth=2, **TRANSFORMER
        ),
        "fusion": GatedCrossAttention(
            queries="former.question",
            context="former",
            depth=2,
            gate="vector",
            cross_norm="rms",
            query_key_norm=True,
            **TRANSFORMER,
        ),
    },
    # As in BLIP: the text attends to the image in the encoder itself.
    "grounded": {
        **SMALL,
        "fusion": None,
        "question": GroundedText(
            vocab_size=2048, context_length=18, depth=1, pooling="mean", **TRANSFORMER
        ),
        "answer": {"stream": "question.grounded"},
    },
    # Every option that adds parameters, and image tokens that are projected.
    "single_stream": {
        "image": VIT,
        "question": {**TRANSFORMER, "depth": 0, "post_norm": True},
        "fusion": SingleStream(
            streams=("question", "image"),
            projected=("image",),
            embedding_norm=True,
            pooling="map",
            pooler=True,
            depth=2,
            **TRANSFORMER,
        ),
    },
    "balanced": {**SMALL, "fusion": {**TRANSFORMER, "depth": 1}},
}
FILTERS = {"image": ModalityDropout(0.3), "question": Gate()}
FUSIONS = ("co_attention", "grounded", "pooled", "queries", "single_stream")
ONE = (1, 1, 1)
slow = pytest.mark.slow(
    subject=[
        "configs/vqa_cross_attention.py",
        "tests/multidevice/test_vqa.py",
        "vljax/models",
        "vljax/objectives",
        "vljax/parallel",
        "vljax/run.py",
        "vljax/training/step.py",
        "vljax/training/state.py",
    ]
)


@functools.cache
def recipe(variant):
    run = config.load("configs/vqa_cross_attention.py:tiny", Run)
    nodes = dict(run.model.nodes)
    for name, change in VARIANTS[variant].items():
        given = change is None or isinstance(change, Node)
        nodes[name] = change if given else dataclasses.replace(nodes[name], **change)
    nodes = {name: node for name, node in nodes.items() if node is not None}
    data, objectives = run.data, dict(run.objectives)
    if variant in FUSIONS:
        del objectives["look"]  # it makes no attention to the image
    if variant == "pooled":
        del nodes["fusion"]
        heads = pooled_fusions(nodes.pop("answer").classes)
        nodes |= heads
        for name in heads:
            if f"{name}/logits" in nodes[name].makes(name):
                objectives[name] = Classification(logits=f"{name}/logits", targets="answer")
    if "regions" in nodes:
        more = (*data.train_transforms, DecodeFeatures(most=3, dim=6))
        data = dataclasses.replace(data, train_transforms=more)
    model = dataclasses.replace(run.model, nodes=nodes)
    if variant == "balanced":
        model = dataclasses.replace(model, filters=FILTERS)
        objectives["answer"] = BalancedClassification(
            logits="answer/logits",
            targets="answer",
            streams=("image", "question"),
            alpha=0.5,
            noise=0.5,
        )
    return dataclasses.replace(
        run,
        model=model,
        data=data,
        objectives=objectives,
        evaluators={},
        final_evaluators={},
        global_batch=BATCH,
    )


def pooled_fusions(classes):
    """The nodes of the variant: fusions, a classifier for each, decisions."""
    nodes = {**fusions(32, dropout=0.1), **decisions(classes)}
    nodes["answer"] = nodes.pop("vote")
    for name in [name for name, node in nodes.items() if not isinstance(node, Decision)]:
        nodes[f"{name}_answer"] = Classifier(stream=name, classes=classes)
    embedded = EmbeddingClassifier(stream="product", classes=classes, dim=8)
    return {**nodes, "embedded": embedded}


@functools.cache
def batch(variant):
    """Random arrays of the shapes that the recipe's transforms declare.

    Each question has three answers or, one in eight, none that is known. The row of the
    example that is not valid is blank, as the data pipeline leaves it.
    """
    rng = np.random.default_rng(0)
    specs = recipe(variant).data.batch_spec(BATCH)
    answer, (size, count, length) = specs["answer"][0], specs["question"][0]
    chosen = rng.random(answer)
    weights = np.where(chosen >= np.sort(chosen)[..., -3:].take([0], -1), rng.random(answer), 0)
    weights[::2, 1] = 0
    cells = rng.integers(-1, recipe(variant).model.nodes["cell"].classes, specs["grid_labels"][0])
    seen = (rng.random(specs["answer_cells"][0]) < 0.3) * (rng.random((size, count, 1)) < 0.5)
    made = {
        "image": rng.integers(0, 256, specs["image"][0]),
        "question": rng.integers(2, 2048, (size, count, length)),
        "question_mask": np.arange(length) < rng.integers(2, length + 1, (size, count, 1)),
        "answer": weights / np.maximum(weights.sum(-1, keepdims=True), 1e-9),
        "grid_labels": np.where(rng.random(cells.shape) < 0.5, cells, -1),
        "answer_cells": seen / np.maximum(seen.sum(-1, keepdims=True), 1),
        "example_id": np.zeros(specs["example_id"][0]),
    }
    if "regions" in specs:
        made["regions"] = rng.standard_normal(specs["regions"][0])
        made["regions_boxes"] = np.sort(rng.random((size, 3, 2, 2)), axis=2).reshape(size, 3, 4)
        made["regions_mask"] = np.arange(3) < rng.integers(1, 4, (size, 1))
    for name, array in made.items():
        array[INVALID] = -1 if name == "grid_labels" else 0
    made["valid"] = np.arange(size) != INVALID
    assert {name: array.shape for name, array in made.items()} == {
        name: shape for name, (shape, _) in specs.items()
    }
    return {name: array.astype(specs[name][1]) for name, array in made.items()}


@functools.cache
def prepared(variant, sizes, accumulate):
    mesh = MeshConfig(*sizes, fsdp_min_size=0)
    run = dataclasses.replace(recipe(variant), mesh=mesh, accumulate=accumulate)
    return prepare(run, jax.devices()[: math.prod(sizes)])


@functools.cache
def state(variant):
    """Random parameters, biases too, and zeros for all else."""
    rng = np.random.default_rng(1)

    def random(path, leaf):
        keys = [key.key for key in path]
        around = 1 if keys[-1] == "scale" else 0
        # The square root in MFB amplifies rounding errors of what is near 0.
        around = 4 if keys[0] == "mfb" and keys[-1] == "bias" else around
        return rng.normal(around, 0.2, leaf.shape).astype(leaf.dtype)

    shapes = prepared(variant, ONE, 1).shapes
    zeros = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), shapes)
    return zeros._replace(params=jax.tree_util.tree_map_with_path(random, shapes.params))


def computed(variant, sizes, accumulate=1):
    """Losses by objective, gradients by parameter: with the kernels and shardings of a run."""
    of = prepared(variant, sizes, accumulate)
    ((objectives, groups),) = of.task.passes.items()

    def gradients(state, batch, key):
        found = gradients_of(of.task, objectives, groups, state, batch, key)
        return {"": found.loss, **found.losses, **found.metrics}, found.gradients

    inputs = state(variant), batch(variant), jax.random.key(1)
    placed = jax.tree.map(lambda leaf: leaf.sharding, of.shapes)
    shardings = placed, batch_sharding(of.mesh), replicated(of.mesh)
    losses, found = jax.jit(gradients)(*map(jax.device_put, inputs, shardings))
    return losses, {"/".join(path): np.asarray(g, np.float64) for path, g in leaves(found)}


@functools.cache
def on_one_device(variant):
    return computed(variant, ONE)


@pytest.mark.parametrize(
    ("variant", "sizes", "accumulate"),
    [
        *(("conv_grid", sizes, 1) for sizes in [(8, 1, 1), (2, 2, 2), (1, 8, 1), (1, 1, 8)]),
        ("conv_grid", ONE, 4),
        ("balanced", (2, 2, 2), 1),
        pytest.param("balanced", (8, 1, 1), 1, marks=slow),
        ("balanced", ONE, 4),
        pytest.param("vit", (1, 2, 2), 4, marks=slow),
        *(
            pytest.param(name, sizes, accumulate, marks=slow)
            for name in FUSIONS
            for sizes, accumulate in [((8, 1, 1), 1), ((2, 2, 2), 4)]
        ),
    ],
    ids=str,
)
def test_loss_and_gradients_equal_those_of_one_device(variant, sizes, accumulate):
    """Within 1e-5, relative L2 error of each array: sums in another order, in float32."""
    expected, gradients = on_one_device(variant)
    losses, found = computed(variant, sizes, accumulate)
    assert set(losses) >= {"", "answer", "cell", "answer/accuracy", "cell/accuracy"}
    for name, value in expected.items():
        np.testing.assert_allclose(losses[name], value, rtol=1e-5, err_msg=name)
    assert found.keys() == gradients.keys()
    largest = max(np.linalg.norm(g) for g in gradients.values())
    for path, gradient in gradients.items():
        # Gradients of key biases are zero but for rounding.
        size = 0.01 * largest if path.endswith("key/bias") else np.linalg.norm(gradient)
        assert np.linalg.norm(found[path] - gradient) <= 1e-5 * size, path


@pytest.mark.parametrize(
    "variant",
    [
        "conv_grid",
        *(pytest.param(name, marks=slow) for name in ("vit", *FUSIONS)),
    ],
)
def test_every_parameter_has_a_gradient(variant):
    """So that the test above compares something for each array."""
    _, gradients = on_one_device(variant)
    largest = max(np.linalg.norm(g) for g in gradients.values())
    # With co-attention, nothing reads what the last block makes of the regions.
    unread = ("fusion/blocks/1/regions/",) if variant == "co_attention" else ()
    # About twenty objectives train the towers of `pooled`, one each of its fusions.
    least = 1e-5 if variant == "pooled" else 1e-3
    for path, gradient in gradients.items():
        if not path.endswith("key/bias"):
            size = np.linalg.norm(gradient) / largest
            assert (size == 0) if path.startswith(unread) else (size > least), path
