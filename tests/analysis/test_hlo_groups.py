"""Replica groups in every form that XLA prints."""

import jax
import numpy as np
import pytest
from jax.sharding import AxisType, Mesh

from vljax.analysis.hlo import Instruction, crossed_axes, groups


@pytest.fixture(scope="module")
def mesh():
    devices = np.array(jax.devices()[:8]).reshape(2, 2, 2)
    return Mesh(devices, ("data", "fsdp", "tensor"), axis_types=(AxisType.Auto,) * 3)


FSDP = ((0, 2), (1, 3), (4, 6), (5, 7))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("replica_groups={{0,2},{1,3},{4,6},{5,7}}", FSDP),
        ("replica_groups={}", (tuple(range(8)),)),
        ("replica_groups=[2,4]<=[8]", ((0, 1, 2, 3), (4, 5, 6, 7))),
        ("replica_groups=[4,2]<=[2,2,2]T(0,2,1)", FSDP),
        ("replica_groups=mesh['a'=2,'b'=2,'c'=2] {'b'}", FSDP),
        ("replica_groups=mesh['a'=4,'b'=2] {'a':(2)2}", FSDP),
        ("replica_groups=mesh['a'=4,'b'=2] {'a':(1)2}", ((0, 4), (1, 5), (2, 6), (3, 7))),
        ("replica_groups=mesh['a'=2,'b'=4] {'a','b'}", (tuple(range(8)),)),
        (
            "replica_groups=mesh['a'=4,'b'=2], device_ids=([2,4]T(1,0)) {'b'}",
            ((0, 4), (1, 5), (2, 6), (3, 7)),
        ),
        (
            "replica_groups=mesh['a'=4,'b'=2], device_ids=(0,2,1,3,4,6,5,7) {'b'}",
            FSDP,
        ),
        ("source_target_pairs={{0,2},{2,0}}", ((0, 2), (2, 0))),
    ],
)
def test_replica_groups(text, expected):
    after = ', use_global_device_ids=true, metadata={op_name="replica_groups={{9,9}}"}'
    line = Instruction("c", "all-reduce", (), (), f"channel_id=3, {text}{after}", False)
    assert groups(line, 8) == expected


def test_unknown_replica_groups_are_an_error():
    line = Instruction("c", "all-reduce", (), (), "replica_groups=everyone", False)
    with pytest.raises(ValueError, match="no known form of replica groups"):
        groups(line, 8)


@pytest.mark.parametrize(
    ("members", "axes"),
    [
        (FSDP, ("fsdp",)),
        (((0, 4),), ("data",)),
        (((0, 1), (2, 3)), ("tensor",)),
        ((tuple(range(8)),), ("data", "fsdp", "tensor")),
        (((0, 1), (1, 2), (2, 3), (3, 0)), ("fsdp", "tensor")),  # one ring over two axes
        (((0,), (1,)), ()),
    ],
)
def test_crossed_axes(mesh, members, axes):
    assert crossed_axes(members, mesh) == axes
