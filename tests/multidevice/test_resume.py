"""A run goes on with another mesh than it was started on."""

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
    """Losses and the state after two steps, from a state or the first one."""
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
    """A run of two steps on (data 8), saved; and the losses of the two that follow."""
    folder = str(tmp_path_factory.mktemp("run"))
    _, state = trained((8, 1, 1))
    saver = Checkpointer(folder)
    saver.save(STEPS, state, {"recipe.json": b"{}"})
    saver.close()
    return folder, *trained((8, 1, 1), lambda _: state, STEPS)


@pytest.mark.parametrize("sizes", [(2, 2, 2), (1, 1, 1)])
def test_a_run_goes_on_with_the_same_loss(saved, sizes):
    """To 1e-5, float32: another mesh takes sums over the batch in another order."""
    folder, losses, state = saved
    others, other = trained(sizes, lambda shapes: Checkpointer(folder).restore(shapes).state, STEPS)
    np.testing.assert_allclose(others, losses, rtol=1e-5)
    for one, two in zip(jax.tree.leaves(other), jax.tree.leaves(state), strict=True):
        one, two = np.asarray(one, np.float64), np.asarray(two, np.float64)
        assert np.linalg.norm(one - two) <= 1e-5 * max(np.linalg.norm(two), 0.1)
