"""Ring scans over the eight CPU devices of the tests."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vljax.parallel.mesh import MeshConfig, make_mesh
from vljax.parallel.per_device import on_batch_shards, ring_scan, ring_size

MESHES = [(1, 1, 1), (2, 1, 1), (8, 1, 1), (2, 2, 2), (1, 4, 2), (1, 1, 8)]


def mesh_of(sizes):
    return make_mesh(MeshConfig(*sizes), jax.devices()[: math.prod(sizes)])


def product(mesh):
    """A function of x and y: the sums of x_i y_j^2 over j, and over i."""

    def local(x, y):
        def visit(carry, shard, *, is_local):
            assert is_local is True or is_local is False
            each = x[:, None] * shard**2
            return carry + each.sum(1) + (1000 if is_local else 0), each.sum(0)

        return ring_scan(visit, jnp.zeros_like(x), y, jnp.add, mesh)

    return on_batch_shards(local, mesh)


@pytest.mark.parametrize("sizes", MESHES, ids=str)
def test_every_device_visits_every_shard_and_sums_return(sizes):
    x, y = np.random.default_rng(0).normal(size=(2, 16)).astype(np.float32)
    rows, columns = jax.jit(product(mesh_of(sizes)))(x, y)
    truth = np.float64(x)[:, None] * np.float64(y) ** 2
    # Sums of 16 numbers near 1 in float32, plus 1000 that marks the visit of the local shard.
    np.testing.assert_allclose(rows, truth.sum(1) + 1000, atol=2e-4)
    np.testing.assert_allclose(columns, truth.sum(0), atol=1e-5)


def test_without_a_mesh_the_function_is_not_wrapped():
    def function(x):
        return x

    assert on_batch_shards(function, None) is function
    assert on_batch_shards(function, mesh_of((1, 1, 1))) is function
    assert ring_size(None) == 1
    assert ring_size(mesh_of((2, 2, 2))) == 4


def test_remote_visits_are_one_scan():
    """The traced program has the same length on 2 and on 8 devices."""
    lengths = set()
    for devices in (2, 8):
        program = jax.make_jaxpr(product(mesh_of((devices, 1, 1))))(jnp.ones(16), jnp.ones(16))
        lengths.add(len(str(program).splitlines()))
        assert str(program).count("ppermute[") == 4  # shard and sum, in the scan and outside
    assert len(lengths) == 1


def test_transfers_do_not_depend_on_the_visit():
    """The arrays sent in a step of the scan are inputs of that step."""
    mesh = mesh_of((4, 1, 1))
    jaxpr = jax.make_jaxpr(product(mesh))(jnp.ones(8), jnp.ones(8)).jaxpr
    (mapped,) = (e for e in jaxpr.eqns if e.primitive.name == "shard_map")
    (loop,) = (e for e in mapped.params["jaxpr"].eqns if e.primitive.name == "scan")
    body = loop.params["jaxpr"].jaxpr
    sent = [e.invars[0] for e in body.eqns if e.primitive.name == "ppermute"]
    assert len(sent) == 2
    assert all(variable in body.invars for variable in sent)
