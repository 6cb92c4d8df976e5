"""Device meshes on the eight devices of the test process."""

import jax
import pytest

from vljax import config
from vljax.config import UserError
from vljax.parallel.mesh import MeshConfig, check_batch, make_mesh


@pytest.mark.parametrize(
    ("sizes", "shape"),
    [
        ((-1, 1, 1), (8, 1, 1)),
        ((2, -1, 2), (2, 2, 2)),
        ((1, 4, 2), (1, 4, 2)),
        ((8, 1, -1), (8, 1, 1)),
    ],
)
def test_sizes(sizes, shape):
    mesh = make_mesh(MeshConfig(*sizes))
    assert tuple(mesh.shape.values()) == shape
    assert mesh.axis_names == ("data", "fsdp", "tensor")
    assert all(kind == jax.sharding.AxisType.Auto for kind in mesh.axis_types)


@pytest.mark.parametrize("sizes", [(3, 1, 1), (-1, 3, 1), (16, 1, 1), (4, 1, 1)])
def test_sizes_that_do_not_fit(sizes):
    with pytest.raises(UserError, match=r"mesh: data .* x fsdp .* does not fit 8 device\(s\)"):
        make_mesh(MeshConfig(*sizes))


@pytest.mark.parametrize(
    ("sizes", "message"),
    [((0, 1, 1), "data: must be at least 1"), ((-1, -1, 1), "fsdp: only one axis can be -1")],
)
def test_bad_sizes(sizes, message):
    with pytest.raises(UserError, match=message):
        config.validate(MeshConfig(*sizes))


def test_the_batch_must_split_evenly():
    mesh = make_mesh(MeshConfig(2, 2, 2))
    check_batch(mesh, 12)
    with pytest.raises(UserError, match=r"global_batch: the mesh .* cannot split 10; 8 would do"):
        check_batch(mesh, 10)
    with pytest.raises(UserError, match="4 would do"):
        check_batch(mesh, 1)
