"""The counts of a compiled program, and the environment in which it is compiled."""

import subprocess
from types import SimpleNamespace

import pytest

from benchmarks.guard import measure
from vljax.analysis import hlo
from vljax.analysis.hlo import executions

# A loop of three trips, with a transpose inside a fusion; a copy before it; an asynchronous one.
PROGRAM = """\
HloModule m

%fused (a: f32[2,4]) -> f32[4,2] {
  %a = f32[2,4]{1,0} parameter(0)
  ROOT %t = f32[4,2]{1,0} transpose(%a), dimensions={1,0}
}

%body (state: (s32[], f32[2,4], f32[4,2])) -> (s32[], f32[2,4], f32[4,2]) {
  %state = (s32[], f32[2,4]{1,0}, f32[4,2]{1,0}) parameter(0)
  %i = s32[] get-tuple-element(%state), index=0
  %x = f32[2,4]{1,0} get-tuple-element(%state), index=1
  %y = f32[4,2]{1,0} fusion(%x), kind=kLoop, calls=%fused
  ROOT %next = (s32[], f32[2,4]{1,0}, f32[4,2]{1,0}) tuple(%i, %x, %y)
}

%condition (state: (s32[], f32[2,4], f32[4,2])) -> pred[] {
  %state = (s32[], f32[2,4]{1,0}, f32[4,2]{1,0}) parameter(0)
  %i = s32[] get-tuple-element(%state), index=0
  %three = s32[] constant(3)
  ROOT %less = pred[] compare(%i, %three), direction=LT
}

ENTRY %main (p: f32[2,4], q: f32[4,2]) -> (s32[], f32[2,4], f32[4,2]) {
  %p = f32[2,4]{1,0} parameter(0)
  %q = f32[4,2]{1,0} parameter(1)
  %c = f32[2,4]{1,0} copy(%p)
  %ahead = (f32[4,2]{1,0:S(1)}, f32[4,2]{1,0}, u32[]) copy-start(%q)
  %there = f32[4,2]{1,0:S(1)} copy-done(%ahead)
  %zero = s32[] constant(0)
  %start = (s32[], f32[2,4]{1,0}, f32[4,2]{1,0}) tuple(%zero, %c, %q)
  ROOT %loop = (s32[], f32[2,4]{1,0}, f32[4,2]{1,0}) while(%start), condition=%condition, \
body=%body, backend_config={"known_trip_count":{"n":"3"}}
}
"""


@pytest.fixture(scope="module")
def program():
    module = hlo.parse(PROGRAM)
    return module, executions(module)


def test_loops_count_times_their_trips(program):
    assert measure.instructions(*program) == {"transposes": 3, "copies": 1}


def test_bytes_of_main_memory(program):
    """32 bytes an array: read and written by the copy and in each trip, read once ahead.

    The condition reads two integers and writes a boolean, four times.
    """
    assert measure.moved_bytes(*program) == 64 + 3 * 64 + 32 + 4 * 9


def test_settings_of_the_caller_do_not_reach_the_compiler(monkeypatch):
    """Such as those in `tests/conftest.py`. Pinned settings make all hosts alike."""
    given = {}

    def run(command, env, **_):
        given.update(env)
        return SimpleNamespace(returncode=0, stdout='{"copies": 1}')

    monkeypatch.setattr(subprocess, "run", run)
    monkeypatch.setenv("JAX_NUM_CPU_DEVICES", "8")
    monkeypatch.setenv("XLA_FLAGS", "--xla_backend_optimization_level=0")
    monkeypatch.setenv("LIBTPU_INIT_ARGS", "--x")
    monkeypatch.setenv("PATH", "kept")
    assert measure.counts("quickstart_cpu") == {"copies": 1}
    left = {k: v for k, v in given.items() if k.startswith(("JAX_", "XLA_", "LIBTPU_", "PJRT_"))}
    assert left == measure.PINNED
    assert given["PATH"] == "kept"


def test_a_failing_compile_ends_the_program(monkeypatch):
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: SimpleNamespace(returncode=2))
    with pytest.raises(SystemExit, match=r"quickstart_cpu: .* failed with status 2"):
        measure.counts("quickstart_cpu")
