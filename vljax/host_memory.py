"""Freed memory stays with a process that computes on the CPU.

XLA takes the temporaries of a program from the C library at each call and gives them back after it.
glibc returns so large a block to the kernel at once, and the next step gets it page by page again,
each filled with zeros (docs/performance.md).
"""

from __future__ import annotations

import ctypes
import glob
import os
import sys

_ACCELERATORS = ("/dev/nvidia[0-9]*", "/dev/accel*", "/dev/vfio/[0-9]*", "/dev/kfd")
# Of glibc's malloc.h.
_M_TRIM_THRESHOLD, _M_MMAP_MAX, _M_ARENA_MAX = -1, -4, -8


def computes_on_cpu() -> bool:
    """Whether JAX will compute on the CPU, as far as can be told without starting it."""
    platforms = os.environ.get("JAX_PLATFORMS")
    if platforms:
        return platforms.split(",")[0] == "cpu"
    return not any(glob.glob(pattern) for pattern in _ACCELERATORS)


def keep_freed_memory() -> bool:
    """Tells malloc to keep what is freed, in one heap; to be called before threads start.

    The process holds the largest amount that it ever needed. Where the GLIBC_TUNABLES or MALLOC_
    variables of glibc set malloc up, they are left alone.

    Returns:
      Whether it did: only on Linux with glibc, and only where the CPU computes.
    """
    chosen = any(name.startswith(("MALLOC_", "GLIBC_TUNABLES")) for name in os.environ)
    if chosen or sys.platform != "linux" or not computes_on_cpu():
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    # A heap other than the first one cannot grow to the size of a step, and falls back to mmap.
    settings = ((_M_ARENA_MAX, 1), (_M_MMAP_MAX, 0), (_M_TRIM_THRESHOLD, -1))
    return all(mallopt(name, value) == 1 for name, value in settings)
