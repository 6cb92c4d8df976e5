"""The predicted time of hand-written schedules, summed by hand."""

import dataclasses

import pytest

from vljax.analysis.accelerators import ACCELERATORS, Accelerator
from vljax.analysis.cost_model import collective_seconds, program_cost
from vljax.analysis.hlo import executions, parse
from vljax.analysis.hlo_costs import Collective

# 1e9 cycles, 1e12 FLOPs, 1e9 bytes in a second.
DEVICE = Accelerator("x", 1e12, 2**30, 1e9, 1e8, 2, 1e6, 1e9, "")

CYCLES = 'backend_config={"window_config":{"estimated_cycles":"%d"}}'

PROGRAM = (
    """\
%fused (p.2: f32[1000]) -> f32[1000] {
  %p.2 = f32[1000]{0} parameter(0)
  ROOT %sine = f32[1000]{0} sine(%p.2), """
    + CYCLES % 999
    + """
}

%body (p: (s32[], f32[1000])) -> (s32[], f32[1000]) {
  %p = (s32[], f32[1000]{0}) parameter(0)
  %i = s32[] get-tuple-element(%p), index=0
  %x = f32[1000]{0} get-tuple-element(%p), index=1
  %one = s32[] constant(1)
  %next = s32[] add(%i, %one)
  %work = f32[1000]{0} fusion(%x), kind=kLoop, calls=%fused, """
    + CYCLES % 500
    + """
  ROOT %out = (s32[], f32[1000]{0}) tuple(%next, %work)
}

%condition (p.1: (s32[], f32[1000])) -> pred[] {
  %p.1 = (s32[], f32[1000]{0}) parameter(0)
  %i.1 = s32[] get-tuple-element(%p.1), index=0
  %n = s32[] constant(12)
  ROOT %lt = pred[] compare(%i.1, %n), direction=LT
}

ENTRY %main (a: f32[1000]) -> f32[1000] {
  %a = f32[1000]{0} parameter(0)
  %zero = s32[] constant(0)
  %init = (s32[], f32[1000]{0}) tuple(%zero, %a)
  %while = (s32[], f32[1000]{0}) while(%init), condition=%condition, body=%body
  ROOT %y = f32[1000]{0} get-tuple-element(%while), index=1
}
"""
)


def cost(text, found=(), seconds=None, kernels=None):
    module = dataclasses.replace(parse(text), kernels=kernels or {})
    return program_cost(
        module, executions(module), list(found), DEVICE, lambda c: (seconds or {})[c.name]
    )


def test_cycles_of_a_loop_body_times_its_trips():
    """Instructions in a fusion do not count in addition to the fusion."""
    total = cost(PROGRAM)
    assert total.cycles == 12 * 500
    # Counter and comparison: scalars of four bytes; two in and one out, and 13 times one byte out.
    scalars = 12 * 12 + 13 * 9
    assert total.memory_bytes == 12 * 8000 + scalars
    assert total.seconds(DEVICE.clock) == pytest.approx(12 * 500e-9 + scalars * 1e-9)


ENTRY = """\
ENTRY %main (a: f32[1000]) -> f32[1000] {{
  %a = f32[1000]{{0}} parameter(0)
{lines}
  ROOT %out = (f32[1000]{{0}}) tuple(%a)
}}
"""


def entry(*lines):
    return ENTRY.format(lines="\n".join(f"  {line}" for line in lines))


def work(number, cycles):
    return f"%w{number} = f32[1000]{{0:S(1)}} tanh(%a), {CYCLES % cycles}"


def test_instructions_without_cycles_take_their_roofline_time():
    text = entry('%k = f32[1000]{0} custom-call(%a), custom_call_target="tpu_custom_call"')
    memory_bound = cost(text, kernels={("k", ((1000,),)): 10})
    assert memory_bound.uncosted_seconds == pytest.approx(8000 / 1e9)
    assert memory_bound.uncosted_flops == 10
    compute_bound = cost(text, kernels={("k", ((1000,),)): 10**9})
    assert compute_bound.uncosted_seconds == pytest.approx(1e-3)
    assert compute_bound.cycles == 0


def test_bookkeeping_is_free():
    lines = (
        '%buffer = f32[1000]{0} custom-call(), custom_call_target="AllocateBuffer"',
        "%cast = s32[1000]{0} bitcast(%a)",
    )
    assert cost(entry(*lines)).seconds(DEVICE.clock) == 0


def collective(name, computation="main"):
    return Collective("all-reduce", name, computation, ("data",), ((0, 1),), 1, 1, False)


REDUCE = "%r = f32[1000]{0} all-reduce(%a), channel_id=1, replica_groups={{0,1}}, to_apply=%add"


def test_a_synchronous_collective_is_exposed():
    total = cost(entry(work(1, 700), REDUCE, work(2, 300)), [collective("r")], {"r": 5e-6})
    assert total.exposed_seconds == pytest.approx(5e-6)
    assert total.seconds(DEVICE.clock) == pytest.approx(6e-6)


@pytest.mark.parametrize(("takes", "exposed"), [(5e-6, 2e-6), (1e-6, 0.0)])
def test_an_asynchronous_collective_is_partly_overlapped(takes, exposed):
    lines = (
        *(work(1, 700), REDUCE.replace("all-reduce(", "all-reduce-start("), work(2, 3000)),
        *("%d = f32[1000]{0} all-reduce-done(%r)", work(3, 9000)),
    )
    total = cost(entry(*lines), [collective("r")], {"r": takes})
    assert total.exposed_seconds == pytest.approx(exposed)
    assert total.copy_seconds == 0


def test_an_asynchronous_copy_is_partly_overlapped():
    """4000 bytes into on-chip memory at 1e9 bytes/s; 3000 ns are overlapped."""
    lines = (
        "%c = (f32[1000]{0:S(1)}, f32[1000]{0}, u32[]{:S(2)}) copy-start(%a)",
        *(work(1, 3000), "%d = f32[1000]{0:S(1)} copy-done(%c)"),
    )
    total = cost(entry(*lines))
    assert total.copy_seconds == pytest.approx(1e-6)
    assert total.memory_bytes == 4000 + 4000  # the copy, and what the work reads


def test_only_the_slice_that_is_read_counts():
    lines = (
        "%i = s32[]{:S(6)} constant(3)",
        "%s = f32[10]{0:S(1)} dynamic-slice(%a, %i), dynamic_slice_sizes={10}",
        "%u = f32[1000]{0} dynamic-update-slice(%a, %s, %i)",
    )
    assert cost(entry(*lines)).memory_bytes == 40 + 40


class FakeDevice:
    def __init__(self, number, slice_index=0, platform="tpu", process_index=0):
        self.platform = platform
        self.process_index = process_index
        self.coords = [number % 4, number // 4 % 4, 0]
        self.slice_index = slice_index


def test_links_of_a_torus():
    """v5e: two links along each dimension in which a group extends, 50 GB/s each."""
    seconds = collective_seconds(list(map(FakeDevice, range(16))), ACCELERATORS["v5e"])

    def takes(*groups):
        return seconds(
            Collective("collective-permute", "c", "m", ("data",), groups, 10**9, 1, False)
        )

    assert takes((0, 1, 2, 3)) == pytest.approx(1e9 / 100e9)
    assert takes(tuple(range(16))) == pytest.approx(1e9 / 200e9)
    # Several groups: the slowest decides.
    assert takes(tuple(range(16)), (0, 1)) == pytest.approx(1e9 / 100e9)


def test_bandwidth_between_slices():
    """v5e: 6.4 Tbit/s for a pod of 256 chips."""
    devices = [FakeDevice(i, slice_index=i // 16) for i in range(32)]
    seconds = collective_seconds(devices, ACCELERATORS["v5e"])
    one = Collective("collective-permute", "c", "m", ("data",), ((0, 16),), 10**9, 1, False)
    assert seconds(one) == pytest.approx(1e9 / (6.4e12 / 8 / 256))


def test_bandwidth_between_gpus():
    """H100: 450 GB/s of NVLink out of a GPU, 50 GB/s of network between nodes."""
    devices = [FakeDevice(i, platform="gpu", process_index=i // 8) for i in range(16)]
    seconds = collective_seconds(devices, ACCELERATORS["h100"])

    def takes(*group):
        return seconds(Collective("all-reduce", "c", "m", ("data",), (group,), 10**9, 1, False))

    assert takes(0, 1, 2, 3, 4, 5, 6, 7) == pytest.approx(2 * 7 / 8 * 1e9 / 450e9)
    assert takes(0, 8) == pytest.approx(2 * 1 / 2 * 1e9 / 50e9)
