"""Collectives of programs compiled for eight CPU devices, whose axes and bytes are known."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from vljax.analysis.hlo import executions, parse
from vljax.analysis.hlo_costs import Collective, collectives, summarise

FLOAT = 4


@pytest.fixture(scope="module")
def mesh():
    devices = np.array(jax.devices()[:8]).reshape(2, 4, 1)
    return Mesh(devices, ("data", "fsdp", "tensor"), axis_types=(AxisType.Auto,) * 3)


def found(function, mesh, spec, shape):
    """Collectives of a function that each device runs on its shard of an array."""
    mapped = jax.shard_map(function, mesh=mesh, in_specs=spec, out_specs=P(), check_vma=False)
    sharding = NamedSharding(mesh, spec)
    argument = jax.ShapeDtypeStruct(shape, jnp.float32, sharding=sharding)
    module = parse(jax.jit(mapped).lower(argument).compile().as_text())
    return collectives(module, executions(module), mesh)


BOTH = P(("data", "fsdp"))


@pytest.mark.parametrize(
    ("function", "kind", "axes", "size", "sent"),
    [
        (lambda x: lax.psum(x, "data"), "all-reduce", ("data",), 2, 2 * 2 * 1 / 2),
        (lambda x: lax.psum(x, "fsdp"), "all-reduce", ("fsdp",), 2, 2 * 2 * 3 / 4),
        (lambda x: lax.psum(x, ("data", "fsdp")), "all-reduce", ("data", "fsdp"), 2, 2 * 2 * 7 / 8),
        (lambda x: lax.all_gather(x, "fsdp"), "all-gather", ("fsdp",), 2 * 4, 2 * 4 * 3 / 4),
        (lambda x: lax.psum_scatter(x, "data"), "reduce-scatter", ("data",), 2, 2 / 2),
        (
            lambda x: lax.ppermute(x, "fsdp", [(i, (i + 1) % 4) for i in range(4)]),
            *("collective-permute", ("fsdp",), 2, 2),
        ),
        (
            lambda x: lax.all_to_all(x, "data", 0, 0, tiled=True),
            *("all-to-all", ("data",), 2, 2 / 2),
        ),
    ],
)
def test_kind_axes_and_bytes(mesh, function, kind, axes, size, sent):
    """`size` and `sent` are rows of 1000 floats; each device holds two."""
    (one,) = found(function, mesh, BOTH, (16, 1000))
    assert (one.kind, one.axes, one.times) == (kind, axes, 1)
    assert one.bytes == size * 1000 * FLOAT
    assert one.sent_bytes == sent * 1000 * FLOAT


def test_collectives_in_a_loop(mesh):
    def ring(x):
        step = [(i, (i + 1) % 4) for i in range(4)]
        return lax.fori_loop(0, 3, lambda _, y: lax.ppermute(jnp.sin(y), "fsdp", step), x)

    (one,) = found(ring, mesh, BOTH, (16, 1000))
    assert one.times == 3
    assert summarise([one]) == [
        {
            "kind": "collective-permute",
            "axes": ["fsdp"],
            "count": 3,
            "bytes": 3 * 2000 * FLOAT,
            "sent_bytes": 3 * 2000 * FLOAT,
            "overlapped_bytes": 0,
        }
    ]


def test_collectives_that_the_compiler_adds(mesh):
    """Data parallelism written as shardings: the gradient is summed over all devices."""
    rows, kernel = NamedSharding(mesh, BOTH), NamedSharding(mesh, P())

    def loss(w, x):
        return jnp.tanh(x @ w).sum()

    step = jax.jit(jax.grad(loss), in_shardings=(kernel, rows), out_shardings=kernel)
    shapes = (
        jax.ShapeDtypeStruct((32, 48), jnp.float32),
        jax.ShapeDtypeStruct((64, 32), jnp.float32),
    )
    module = parse(step.lower(*shapes).compile().as_text())
    (one,) = collectives(module, executions(module), mesh)
    assert (one.kind, one.axes, one.bytes) == ("all-reduce", ("data", "fsdp"), 32 * 48 * FLOAT)


TPU = """\
%part.1 (x: f32[64,768]) -> f32[1024,768] {
  %x = f32[64,768]{1,0} parameter(0)
  ROOT %all-gather.6 = f32[1024,768]{1,0} all-gather(%x), channel_id=36, \
replica_groups=[1,8]<=[8], dimensions={0}, \
backend_config={"async_collective_fusion_config":{"flag_start":"-1"}}
}

%part.2 (x.1: f32[64,768]) -> f32[1024,768] {
  %x.1 = f32[64,768]{1,0} parameter(0)
  ROOT %all-gather.8 = f32[1024,768]{1,0} all-gather(%x.1), channel_id=36, \
replica_groups=[1,8]<=[8], dimensions={0}, \
backend_config={"async_collective_fusion_config":{"flag_start":"2"}}
}

%all-reduce-scatter.1 (y: bf16[8,96]) -> bf16[1,96] {
  %y = bf16[8,96]{1,0} parameter(0)
  %all-reduce.9 = bf16[8,96]{1,0} all-reduce(%y), channel_id=7, replica_groups=[1,8]<=[8], \
to_apply=%add
  ROOT %part = bf16[1,96]{1,0} dynamic-slice(%all-reduce.9), dynamic_slice_sizes={1,96}
}

ENTRY %main (a: f32[64,768], b: bf16[8,96]) -> bf16[1,96] {
  %a = f32[64,768]{1,0} parameter(0)
  %b = bf16[8,96]{1,0} parameter(1)
  %fusion.1 = f32[1024,768]{1,0} fusion(%a), kind=kCustom, calls=%part.1
  %fusion.2 = f32[1024,768]{1,0} fusion(%a), kind=kCustom, calls=%part.2
  %permute = (f32[64,768]{1,0}, f32[64,768]{1,0}) collective-permute-start(%a), channel_id=8, \
source_target_pairs={{0,4},{4,0}}
  %done = f32[64,768]{1,0} collective-permute-done(%permute)
  %alone = f32[64,768]{1,0} all-reduce(%a), channel_id=9, replica_groups={{0},{1}}, to_apply=%add
  ROOT %fusion.3 = bf16[1,96]{1,0} fusion(%b), kind=kCustom, calls=%all-reduce-scatter.1
}
"""


def test_tpu_collectives(mesh):
    module = parse(TPU)
    rows = collectives(module, executions(module), mesh)
    assert {(row.kind, row.bytes, row.overlapped) for row in rows} == {
        ("all-gather", 8 * 64 * 768 * FLOAT, True),
        ("collective-permute", 64 * 768 * FLOAT, True),
        ("reduce-scatter", 8 * 96 * 2, False),
    }
    assert len(rows) == 3


def test_group_size():
    groups = ((0, 1, 2), (3, 4))
    assert Collective("all-reduce", "c", "m", ("data",), groups, 1, 1, False).group_size == 3
