"""Moving statistics of an image tower through the training step: moved, or left as they are."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.training import tiny
from vljax.models.assembly import ModelConfig, build, example_batch
from vljax.models.compute import Compute
from vljax.models.encoders import EfficientNetLite
from vljax.models.kernels.choose import Kernels
from vljax.models.kernels.depthwise import shifted_sum
from vljax.objectives.contrastive import SoftmaxContrastive
from vljax.optim import AdamW
from vljax.training.state import Task, create, evaluation_variables
from vljax.training.step import make_step

_INITIAL = {}


def initial(model, example):
    """The variables of either tower, which begin alike: one compile."""
    if not _INITIAL:
        _INITIAL["variables"] = jax.jit(model.init)(jax.random.key(0), example)
    return _INITIAL["variables"]


@functools.cache
def stepped(stored_statistics: bool):
    """The state before a step, after it, and after one of a batch without a valid example."""
    image = EfficientNetLite(
        image_size=16, width_factor=0.25, depth_factor=0.25, stored_statistics=stored_statistics
    )
    text = tiny.model_config().encoders["text"]
    config = ModelConfig({"image": image, "text": text, **tiny.model_config().heads})
    frozen = ("image/.*",) if stored_statistics else ()
    objectives = {"main": SoftmaxContrastive()}
    scalars = {k: v.initial for k, v in objectives["main"].scalars().items()}
    model = build(config, Compute(kernels=Kernels(depthwise_convolution=shifted_sum)), scalars)
    task = Task(model, objectives, AdamW(frozen=frozen, ema_decay=0.9), tiny.STEPS)
    example = {k: jnp.zeros(v.shape, v.dtype) for k, v in example_batch(config).items()}
    first = create(initial(model, example), task)
    step = jax.jit(make_step(task))
    second, metrics = step(first, tiny.batch(), tiny.hyper())
    assert np.isfinite(metrics["loss"])
    third, _ = step(second, tiny.batch(valid=np.zeros(tiny.BATCH, bool)), tiny.hyper())
    return first, second, third


def same(left, right) -> bool:
    return jax.tree.all(jax.tree.map(np.array_equal, left, right))


def test_a_trained_tower_updates_its_statistics():
    first, second, _ = stepped(False)
    before, after = (jax.tree.leaves(s.state) for s in (first, second))
    assert before
    assert not any(np.array_equal(a, b) for a, b in zip(before, after, strict=True))
    assert same(evaluation_variables(second).state, second.state)


def test_a_step_without_a_valid_example_keeps_the_statistics():
    _, second, third = stepped(False)
    assert same(second.state, third.state)


def test_a_frozen_tower_keeps_parameters_and_statistics_and_has_no_optimizer_state():
    first, second, _ = stepped(True)
    assert same(first.state, second.state)
    assert same(first.params["image"], second.params["image"])
    assert not same(first.params["embedding"], second.params["embedding"])
    assert "image" not in first.average
    paths = [jax.tree_util.keystr(k) for k, _ in jax.tree.leaves_with_path(first.optimizer)]
    assert paths
    # The projection of its features is trained, and called after it.
    assert not [p for p in paths if "image" in p and "embedding" not in p]


@pytest.mark.parametrize(("stored", "updates"), [(True, False), (False, True)])
def test_an_encoder_says_whether_it_changes_state(stored, updates):
    assert EfficientNetLite(stored_statistics=stored).updates_state is updates
