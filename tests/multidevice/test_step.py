"""A training step on one device and on meshes of eight."""

import dataclasses
import functools

import jax
import numpy as np
import optax
import pytest

from tests.training import tiny
from vljax.models.low_rank import LowRank
from vljax.models.parameters import leaves
from vljax.optim import Adafactor, Muon
from vljax.parallel.mesh import MeshConfig, make_mesh
from vljax.parallel.rules import batch_sharding, constrain, replicated, update_shardings
from vljax.training.state import abstract, shardings
from vljax.training.step import make_step

MESHES = [(2, 4, 1), (2, 2, 2)]
# test_placement.py compares one step on these meshes in each run of the tests.
SLOW_MESHES = [(8, 1, 1), (1, 1, 8)]
slow = pytest.mark.slow(
    subject=[
        "tests/multidevice/test_step.py",
        "tests/training/tiny.py",
        "vljax/models",
        "vljax/objectives",
        "vljax/optim",
        "vljax/parallel",
        "vljax/training/step.py",
        "vljax/training/state.py",
    ]
)
ADAMW = tiny.standard()[0].optimizer
OPTIMIZERS = {
    "adamw": ADAMW,
    "adafactor": Adafactor(factor_from=8, moment_dtype=None),
    "muon": Muon(epsilon=1e-3),
}
VALID = np.arange(tiny.BATCH) != 3


def moved(params):
    """All parameters except key biases: their gradient is rounding, and Adafactor divides by it."""
    return {keys: leaf for keys, leaf in leaves(params) if keys[-2:] != ("key", "bias")}


def fields(optimizer):
    if optimizer == "low_rank":
        low_rank = LowRank(kernels=("(image|text)/blocks/.*/kernel",), rank=4)
        return {"optimizer": ADAMW, "low_rank": low_rank, "dropout": 0.2, "drop_path": 0.1}
    return {"optimizer": OPTIMIZERS[optimizer], "dropout": 0.2, "drop_path": 0.1}


@functools.cache
def one_device(optimizer):
    """The jitted step and the first state."""
    alone = tiny.task(**fields(optimizer))
    return jax.jit(make_step(alone)), tiny.state(alone)


@pytest.mark.parametrize(
    ("sizes", "optimizer"),
    [
        *((sizes, "adamw") for sizes in MESHES),
        *(pytest.param(sizes, "adamw", marks=slow) for sizes in SLOW_MESHES),
        ((2, 2, 2), "adafactor"),
        ((4, 1, 2), "muon"),
        ((2, 2, 2), "low_rank"),
    ],
    ids=str,
)
def test_three_steps_equal_those_of_one_device(sizes, optimizer):
    """With dropout and an example that is not valid; `data` splits the updates."""
    step, first = one_device(optimizer)
    mesh = make_mesh(MeshConfig(*sizes))
    of = tiny.task(constrain=constrain(mesh), mesh=mesh, **fields(optimizer))
    shapes = jax.eval_shape(lambda: first)
    updates = update_shardings(of.model.axes, shapes.params, mesh)
    placed = shardings(shapes, of, mesh, updates=updates)
    split = jax.jit(
        make_step(dataclasses.replace(of, shardings=placed.params, updates=updates)),
        in_shardings=(placed, batch_sharding(mesh), replicated(mesh)),
        out_shardings=(placed, replicated(mesh)),
    )
    single, state = first, jax.device_put(first, placed)
    for k in range(3):
        single, expected = step(single, tiny.batch(k, valid=VALID), tiny.hyper())
        batch = jax.device_put(tiny.batch(k, valid=VALID), batch_sharding(mesh))
        state, metrics = split(state, batch, tiny.hyper())
        # Sums over the batch are taken in another order: float32 rounding, which the iteration of
        # Muon enlarges.
        for name in ("loss", "gradient_norm"):
            rtol = 5e-5 if optimizer == "muon" else 1e-5
            np.testing.assert_allclose(metrics[name], expected[name], rtol=rtol)
    assert tiny.distance(moved(state.params), moved(single.params)) < 1e-5
    restored = abstract(shapes, placed)
    assert jax.tree.map(lambda leaf: leaf.sharding, restored) == placed


def test_factors_are_split_as_their_kernels():
    mesh = make_mesh(MeshConfig(2, 2, 2))
    of = tiny.task(low_rank=LowRank(kernels=(".*/(up|output)/kernel",), rank=4))
    placed = shardings(jax.eval_shape(lambda: tiny.state(of)), of, mesh)
    block, spec = placed.params["image"]["blocks"]["0"], jax.sharding.PartitionSpec
    up, output = block["mlp"]["up"], block["attention"]["output"]
    assert [up[name].spec for name in ("kernel", "down_kernel", "up_kernel")] == [
        *(spec("fsdp", "tensor"), spec("fsdp", None)),
        spec("fsdp", "tensor"),  # no axis of the embedding: the rank is split
    ]
    assert output["down_kernel"].spec[0] == "tensor"
    assert output["up_kernel"].spec == spec(None, "fsdp")


def test_parameters_and_moments_are_split():
    mesh = make_mesh(MeshConfig(2, 2, 2))
    of, _, first = tiny.standard()
    shapes = jax.eval_shape(lambda: first)
    placed = shardings(shapes, of, mesh)
    up = placed.params["image"]["blocks"]["0"]["mlp"]["up"]["kernel"]
    assert up.spec == jax.sharding.PartitionSpec("fsdp", "tensor")
    (adam,) = (
        part
        for part in jax.tree.leaves(
            placed.optimizer["0"], is_leaf=lambda x: isinstance(x, optax.ScaleByAdamState)
        )
        if isinstance(part, optax.ScaleByAdamState)
    )
    for moment in (adam.mu, adam.nu):
        assert moment["image"]["blocks"]["0"]["mlp"]["up"]["kernel"] == up
    assert adam.count.spec == jax.sharding.PartitionSpec()
