"""Loss and gradients of encoders without attention, on meshes of eight devices.

All of them are nodes of one model with one loss, so that each mesh needs one compile.
"""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vljax.models.assembly import ModelConfig, Variables, build
from vljax.models.compute import Call, Compute
from vljax.models.encoders import GRU, LSTM, ResNet, WordAverage
from vljax.models.kernels.choose import choose
from vljax.models.parameters import leaves
from vljax.parallel.mesh import MeshConfig, make_mesh
from vljax.parallel.rules import batch_sharding, constrain, parameter_shardings, replicated

BATCH = 16
IMAGES = {"entry": "image", "image_size": 24, "repeats": (1, 1), "stem_width": 8, "groups": 4}
GROUP = {"version": "v2", "norm": "group", "standardized_weights": True}
TEXTS = {"entry": "text", "vocab_size": 32, "context_length": 5, "width": 16}
NODES = {
    "batch": ResNet(**IMAGES, block="basic", grid=(2, 3)),
    "group": ResNet(**{**IMAGES, "repeats": (1,)}, **GROUP),
    "lstm": LSTM(**TEXTS, dropout=0.2),
    "gru": GRU(**TEXTS, bidirectional=True, pooling="mean", word_width=8),
    "average": WordAverage(**TEXTS, hidden=32),
}
ONE = (1, 1, 1)


@functools.cache
def batch():
    """Two texts for each image."""
    rng = np.random.default_rng(0)
    length = rng.integers(1, 6, (BATCH, 2, 1))
    return {
        "image": rng.integers(0, 256, (BATCH, 24, 24, 3), np.uint8),
        "text": rng.integers(0, 32, (BATCH, 2, 5), np.int32),
        "text_mask": np.arange(5) < length,
    }


def model(mesh):
    compute = Compute(constrain=constrain(mesh), kernels=choose("cpu", mesh.size))
    return build(ModelConfig(NODES), compute)


@functools.cache
def variables():
    """Random values that do not hide a mistake, as a bias of zeros would."""
    rng = np.random.default_rng(1)

    def random(path, leaf):
        noise = rng.normal(0, 0.2, leaf.shape)
        around = 1 if path[-1].key in ("scale", "variance") else 0
        return (around + noise).astype(leaf.dtype)

    shapes = model(make_mesh(MeshConfig(*ONE), jax.devices()[:1])).shapes
    return Variables(
        jax.tree_util.tree_map_with_path(random, shapes.params),
        jax.tree_util.tree_map_with_path(random, shapes.state),
    )


@functools.cache
def computed(sizes):
    """Losses by node, gradients by parameter, and the statistics after the step."""
    mesh = make_mesh(MeshConfig(*sizes), jax.devices()[: math.prod(sizes)])
    of = model(mesh)
    want = [f"{name}/{part}" for name in NODES for part in ("tokens", "pooled")]

    def losses(params, state, batch, key):
        call = Call(train=True, key=key)
        outputs, state = of.apply(Variables(params, state), batch, call, want=want)
        each = {name: jnp.mean(jnp.square(outputs[name] - 0.5)) for name in want}
        return sum(each.values()), (each, state)

    first = variables()
    shardings = (
        parameter_shardings(of.axes, of.shapes.params, mesh),
        jax.tree.map(lambda _: replicated(mesh), first.state),
        batch_sharding(mesh),
        replicated(mesh),
    )
    inputs = first.params, first.state, batch(), jax.random.key(1)
    placed = map(jax.device_put, inputs, shardings)
    gradients, (each, state) = jax.jit(jax.grad(losses, has_aux=True))(*placed)
    wide = {"/".join(path): np.asarray(g, np.float64) for path, g in leaves(gradients)}
    return each, wide, dict(leaves(state))


@pytest.mark.parametrize("sizes", [(8, 1, 1), (2, 2, 2)], ids=str)
def test_loss_gradients_and_statistics_equal_those_of_one_device(sizes):
    """Within 1e-5, relative L2 error of each array: sums in another order, in float32."""
    expected, gradients, statistics = computed(ONE)
    losses, found, moved = computed(sizes)
    for name, value in expected.items():
        np.testing.assert_allclose(losses[name], value, rtol=1e-5, err_msg=name)
    assert found.keys() == gradients.keys()
    for path, gradient in gradients.items():
        error = np.linalg.norm(found[path] - gradient)
        assert error <= 1e-5 * np.linalg.norm(gradient), path
    for path, value in statistics.items():
        np.testing.assert_allclose(moved[path], value, rtol=1e-5, atol=1e-6, err_msg=str(path))


def test_every_parameter_has_a_gradient_and_the_statistics_move():
    """So that the test above compares something for each array."""
    _, gradients, statistics = computed(ONE)
    largest = max(np.linalg.norm(g) for g in gradients.values())
    for path, gradient in gradients.items():
        assert np.linalg.norm(gradient) > 1e-4 * largest, path
    first = dict(leaves(variables().state))
    assert first.keys() == statistics.keys()
    for path, value in statistics.items():
        assert not np.array_equal(first[path], value), path


def test_kernels_of_recurrent_layers_are_split():
    """The gates by `tensor` along their units, the inputs by `fsdp`."""
    mesh = make_mesh(MeshConfig(2, 2, 2))
    of = model(mesh)
    layer = parameter_shardings(of.axes, of.shapes.params, mesh)["lstm"]["layer0_forward"]
    spec = jax.sharding.PartitionSpec("fsdp", None, "tensor")
    assert layer["input"]["kernel"].spec == layer["recurrent_kernel"].spec == spec
