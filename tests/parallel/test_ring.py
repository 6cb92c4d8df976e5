"""Tours of blocks of a batch over the eight devices of the test process."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vljax.parallel.mesh import MeshConfig, make_mesh
from vljax.parallel.ring import on_each_part, ring_size, tour

MESHES = [(1, 1, 1), (2, 1, 1), (8, 1, 1), (2, 2, 2), (1, 4, 2), (1, 1, 8)]


def mesh_of(sizes):
    return make_mesh(MeshConfig(*sizes), jax.devices()[: math.prod(sizes)])


def product(mesh):
    """Of rows x and columns y, the sums over all others of x_i y_j^2 by row and by column."""

    def local(x, y):
        def visit(mine, block, *, own):
            assert own is True or own is False
            each = x[:, None] * block**2
            return mine + each.sum(1) + (1000 if own else 0), each.sum(0)

        return tour(visit, jnp.zeros_like(x), y, jnp.add, mesh)

    return on_each_part(local, mesh)


@pytest.mark.parametrize("sizes", MESHES, ids=str)
def test_every_block_visits_every_device_and_its_luggage_comes_home(sizes):
    x, y = np.random.default_rng(0).normal(size=(2, 16)).astype(np.float32)
    rows, columns = jax.jit(product(mesh_of(sizes)))(x, y)
    truth = np.float64(x)[:, None] * np.float64(y) ** 2
    # Sums of 16 numbers near 1 in float32, next to 1000 where a device was with its own block.
    np.testing.assert_allclose(rows, truth.sum(1) + 1000, atol=2e-4)
    np.testing.assert_allclose(columns, truth.sum(0), atol=1e-5)


def test_without_a_mesh_nothing_is_wrapped():
    def function(x):
        return x

    assert on_each_part(function, None) is function
    assert on_each_part(function, mesh_of((1, 1, 1))) is function
    assert ring_size(None) == 1
    assert ring_size(mesh_of((2, 2, 2))) == 4


def test_visits_are_one_loop():
    """The traced program has the same length on 2 and on 8 devices."""
    lengths = set()
    for devices in (2, 8):
        program = jax.make_jaxpr(product(mesh_of((devices, 1, 1))))(jnp.ones(16), jnp.ones(16))
        lengths.add(len(str(program).splitlines()))
        assert str(program).count("ppermute[") == 4  # block and luggage, in the loop and outside
    assert len(lengths) == 1


def test_transfers_do_not_wait_for_the_visit():
    """What is sent on in the loop depends on nothing that the loop computes in the same pass."""
    mesh = mesh_of((4, 1, 1))
    jaxpr = jax.make_jaxpr(product(mesh))(jnp.ones(8), jnp.ones(8)).jaxpr
    (mapped,) = (e for e in jaxpr.eqns if e.primitive.name == "shard_map")
    (loop,) = (e for e in mapped.params["jaxpr"].eqns if e.primitive.name == "scan")
    body = loop.params["jaxpr"].jaxpr
    sent = [e.invars[0] for e in body.eqns if e.primitive.name == "ppermute"]
    assert len(sent) == 2
    assert all(variable in body.invars for variable in sent)
