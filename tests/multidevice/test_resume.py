"""Resuming a run on another mesh."""

import dataclasses

import jax
import numpy as np
import pytest

from vljax import config
from vljax.parallel.mesh import MeshConfig
from vljax.programs import compile_step, device_batches, hyper, initial_state
from vljax.run import Run, prepare
from vljax.training.checkpoint import Checkpointer

STEPS = 2


def recipe(sizes):
    run = config.load("configs/quickstart.py:tiny", Run)
    mesh = MeshConfig(*sizes, fsdp_min_size=0)
    # Adam divides by |g| + epsilon: gradients that are zero but for rounding must stay small.
    optim = dataclasses.replace(run.optim, epsilon=1e-3)
    return dataclasses.replace(
        run, optim=optim, mesh=mesh, global_batch=16, evaluators={}, final_evaluators={}
    )


def trained(sizes, state=None, start=0):
    """Losses and the state after two steps, from a given state or the initial one."""
    count = int(np.prod(sizes))
    prepared = prepare(recipe(sizes), jax.devices()[:count])
    state = initial_state(prepared) if state is None else state(prepared.shapes)
    step, values = compile_step(prepared), hyper(prepared)
    batches, losses = device_batches(prepared, start), []
    for _ in range(STEPS):
        state, metrics = step(state, next(batches), values)
        losses.append(float(metrics["loss"]))
    batches.close()
    return losses, state


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A checkpoint after two steps on (data 8), and the losses of the next two steps."""
    folder = str(tmp_path_factory.mktemp("run"))
    _, state = trained((8, 1, 1))
    saver = Checkpointer(folder)
    saver.save(STEPS, state, {"recipe.json": b"{}"})
    saver.close()
    return folder, *trained((8, 1, 1), lambda _: state, STEPS)


@pytest.mark.parametrize("sizes", [(2, 2, 2), (1, 1, 1)])
def test_a_resumed_run_has_the_same_loss(saved, sizes):
    """Within 1e-5 in float32: another mesh sums over the batch in another order."""
    folder, losses, state = saved
    others, other = trained(sizes, lambda shapes: Checkpointer(folder).restore(shapes).state, STEPS)
    np.testing.assert_allclose(others, losses, rtol=1e-5)
    for one, two in zip(jax.tree.leaves(other), jax.tree.leaves(state), strict=True):
        one, two = np.asarray(one, np.float64), np.asarray(two, np.float64)
        assert np.linalg.norm(one - two) <= 1e-5 * max(np.linalg.norm(two), 0.1)
