"""The memory allocator keeps freed memory, unless the user or the platform asks otherwise."""

import glob
import importlib.util
import os
import subprocess
import sys

import pytest

from vljax import host_process

# Page faults of four allocations of 64 MiB, after a first one.
_PROGRAM = """
import resource, sys, threading
import ctypes
from vljax.host_process import keep_freed_memory
print(keep_freed_memory())
libc = ctypes.CDLL(None)
libc.malloc.restype = ctypes.c_void_p
libc.free.argtypes = [ctypes.c_void_p]
def take():
    block = libc.malloc(64 << 20)
    ctypes.memset(block, 1, 64 << 20)
    libc.free(block)
def work():
    take()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(4):
        take()
    print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
thread = threading.Thread(target=work)
thread.start()
thread.join()
"""
glibc = pytest.mark.skipif(sys.platform != "linux", reason="needs glibc on Linux")


def faults(**environment: str) -> tuple[bool, int]:
    known = {k: v for k, v in os.environ.items() if not k.startswith(("MALLOC_", "GLIBC_", "JAX_"))}
    run = subprocess.run(
        [sys.executable, "-c", _PROGRAM],
        env={**known, "JAX_PLATFORMS": "cpu", **environment},
        capture_output=True,
        text=True,
        check=True,
    )
    kept, count = run.stdout.split()
    return kept == "True", int(count)


@glibc
def test_freed_memory_is_reused_without_page_faults() -> None:
    kept, count = faults()
    assert kept
    assert count < 1000  # a block has 16,384 pages


@glibc
@pytest.mark.parametrize("choice", [{"JAX_PLATFORMS": "tpu,cpu"}, {"MALLOC_ARENA_MAX": "2"}])
def test_nothing_changes_on_accelerators_or_with_user_settings(choice: dict[str, str]) -> None:
    kept, count = faults(**choice)
    assert not kept
    assert count > 4 * 32  # pages may be huge ones, of 2 MiB


@pytest.mark.parametrize(
    ("installed", "platforms", "accelerator", "expected"),
    [
        (True, None, False, "cpu"),
        (True, "", False, "cpu"),
        (True, "tpu,cpu", False, "tpu,cpu"),
        (True, None, True, None),
        (False, None, False, None),
    ],
)
def test_libtpu_is_left_out_without_an_accelerator(
    monkeypatch, installed, platforms, accelerator, expected
):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: installed or None)
    monkeypatch.setattr(glob, "glob", lambda pattern: [pattern] if accelerator else [])
    monkeypatch.delenv("JAX_PLATFORMS")
    if platforms is not None:
        monkeypatch.setenv("JAX_PLATFORMS", platforms)
    host_process.leave_out_libtpu()
    assert os.environ.get("JAX_PLATFORMS") == expected
    if platforms is None:
        monkeypatch.setenv("JAX_PLATFORMS", "")  # so that it is restored
