"""Device meshes of the eight CPU devices, of made-up slices, and of TPU topologies."""

from dataclasses import dataclass

import jax
import numpy as np
import pytest

from vljax import config
from vljax.config import UserError
from vljax.parallel.mesh import MeshConfig, arrange, check_batch, make_mesh, slices


@dataclass(frozen=True)
class Device:
    """The attributes of `jax.Device` that meshes depend on."""

    id: int
    slice_index: int
    platform: str = "gpu"
    device_kind: str = "made up"


def devices(count, members, **fields):
    """Slices of `members` devices each, not sorted by slice."""
    made = [Device(i, i // members, **fields) for i in range(count * members)]
    return [*made[1::2], *made[::2]]


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
    assert slices(mesh.devices.flat) == 1


@pytest.mark.parametrize(
    ("sizes", "remedy"),
    [
        ((3, 1, 1), "--mesh.data -1 takes the rest"),
        ((4, 1, 1), "--mesh.data -1 takes the rest"),
        ((-1, 3, 1), "the product must be 8"),
        ((2, 4, 2), "--mesh.data -1 takes the rest"),
        ((1, 16, 1), "the product must be 8"),
    ],
)
def test_sizes_that_do_not_fit(sizes, remedy):
    asked = "data {} x fsdp {} x tensor {}".format(*sizes)
    message = rf"^mesh: {asked} does not fit 8 device\(s\); {remedy}"
    with pytest.raises(UserError, match=f"{message}; for another machine: vljax compile RECIPE"):
        make_mesh(MeshConfig(*sizes))
    with pytest.raises(UserError, match=f"{message}$"):  # for named devices
        make_mesh(MeshConfig(*sizes), jax.devices())


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"data": 0}, "data: must be at least 1"),
        ({"fsdp": -1}, "fsdp: only one axis can be -1, and data is"),
        ({"dcn_fsdp": 0}, "dcn_fsdp: must be at least 1, not 0"),
        ({"fsdp_min_size": -1}, "fsdp_min_size: must be at least 0, not -1"),
    ],
)
def test_bad_fields(fields, message):
    with pytest.raises(UserError, match=message):
        config.validate(MeshConfig(**fields))


@pytest.mark.parametrize(
    ("fields", "count", "across"),
    [
        ({"fsdp": 8}, 2, (2, 1, 1)),
        ({"fsdp": 4, "tensor": 2}, 4, (4, 1, 1)),
        ({"data": 8, "fsdp": 2}, 2, (2, 1, 1)),
        ({"fsdp": 16, "dcn_fsdp": 2}, 2, (1, 2, 1)),
        ({"fsdp": 16, "dcn_fsdp": 2}, 4, (2, 2, 1)),
        ({"fsdp": 8, "tensor": 2, "dcn_fsdp": 2}, 2, (1, 2, 1)),
    ],
)
def test_only_data_and_dcn_fsdp_extend_over_slices(fields, count, across):
    arranged = arrange(MeshConfig(**fields), devices(count, 8))
    assert {device.id for device in arranged.flat} == set(range(8 * count))
    index = np.vectorize(lambda device: device.slice_index)(arranged)
    # An axis over n slices has n equal blocks, each of one slice.
    for axis, parts in enumerate(across):
        blocks = np.split(index, parts, axis)
        assert len({block.tobytes() for block in blocks}) == parts
        for block in blocks:
            first = np.take(block, [0], axis)
            np.testing.assert_array_equal(block, np.broadcast_to(first, block.shape))


@pytest.mark.parametrize(
    ("fields", "members", "message"),
    [
        (
            {"fsdp": -1, "data": 1},
            (8, 8),
            "mesh: data 1 x fsdp 16 x tensor 1 does not fit 2 slices (or nodes) of 8 devices: "
            "--mesh.data -1 --mesh.fsdp 8 splits parameters within a slice, --mesh.dcn_fsdp 2 "
            "across slices",
        ),
        (
            {"fsdp": 8, "tensor": 4},
            (8, 8, 8, 8),
            "mesh: data 1 x fsdp 8 x tensor 4 does not fit 4 slices (or nodes) of 8 devices: "
            "--mesh.data -1 --mesh.fsdp 2 splits parameters within a slice, --mesh.dcn_fsdp 4 "
            "across slices",
        ),
        (
            {"tensor": 16},
            (8, 8),
            "mesh: data 1 x fsdp 1 x tensor 16 does not fit 2 slices (or nodes) of 8 devices: "
            "tensor must divide 8",
        ),
        (
            {"fsdp": 8, "dcn_fsdp": 3},
            (8, 8),
            "mesh.dcn_fsdp: 3 must divide fsdp 8 and the 2 slice(s) or node(s); 1 would do",
        ),
        (
            {"fsdp": 8, "dcn_fsdp": 2},
            (8,),
            "mesh.dcn_fsdp: 2 must divide fsdp 8 and the 1 slice(s) or node(s); 1 would do",
        ),
        (
            {},
            (8, 4),
            "mesh: slices (or nodes) of unequal size (8, 4 devices); use equal ones",
        ),
    ],
)
def test_sizes_that_do_not_fit_the_slices(fields, members, message):
    made = [Device(0, i) for i, count in enumerate(members) for _ in range(count)]
    with pytest.raises(UserError) as caught:
        arrange(MeshConfig(**fields), made)
    assert str(caught.value) == message


@pytest.fixture
def tpu(monkeypatch):
    """The devices of TPU slices, described by the TPU compiler."""
    pytest.importorskip("libtpu")
    from jax.experimental import topologies

    monkeypatch.setenv("TPU_SKIP_MDS_QUERY", "1")
    monkeypatch.setenv("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")
    return lambda name, count: (
        topologies.get_topology_desc(name, platform="tpu", num_slices=count).devices
    )


@pytest.mark.parametrize("count", [1, 2])
def test_sizes_that_are_not_a_product_of_network_dimensions(tpu, count):
    mesh = make_mesh(MeshConfig(fsdp=8), tpu("v5p:4x4x4", count))
    assert dict(mesh.shape) == {"data": 8 * count, "fsdp": 8, "tensor": 1}
    assert len(set(mesh.devices.flat)) == 64 * count


@pytest.mark.parametrize(
    ("fields", "count"), [({"fsdp": 16}, 2), ({"fsdp": 8, "tensor": 2}, 2), ({"fsdp": 4}, 1)]
)
def test_tpu_slices(tpu, fields, count):
    mesh = make_mesh(MeshConfig(**fields), tpu("v5e:4x4", count))
    assert slices(mesh.devices.flat) == count
    whole = mesh.devices.reshape(count, 16)
    assert all(slices(part) == 1 for part in whole)
    # The two devices along `tensor`, which communicates most, are network neighbours.
    for first, *others in mesh.devices.reshape(-1, mesh.shape["tensor"]).tolist():
        for other in others:
            assert np.abs(np.subtract(first.coords, other.coords)).sum() == 1


def test_the_batch_must_split_evenly():
    mesh = make_mesh(MeshConfig(2, 2, 2))
    check_batch(mesh, 12)
    with pytest.raises(UserError, match=r"global_batch: the mesh .* cannot split 10; 8 would do"):
        check_batch(mesh, 10)
    with pytest.raises(UserError, match="4 would do"):
        check_batch(mesh, 1)


@pytest.mark.parametrize("kind", [RuntimeError, AssertionError])
def test_a_platform_that_is_not_there_is_named(monkeypatch, kind):
    """What jax 0.10 raises: for a platform without devices, and for one without a plugin."""

    def missing():
        raise kind("Unable to initialize\nbackend")

    monkeypatch.setattr(jax, "devices", missing)
    monkeypatch.setenv("JAX_PLATFORMS", "cuda")
    with pytest.raises(UserError, match=r"^JAX_PLATFORMS=cuda: JAX finds no such device"):
        make_mesh(MeshConfig())
