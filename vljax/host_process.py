"""Settings of the host process that make steps and starts faster: memory and compiled programs.

Both are safe defaults: they leave alone what the user has set through environment variables.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import glob
import hashlib
import importlib.util
import logging
import os
import platform
import sys
import tempfile
from pathlib import Path
from typing import Any

logger = logging.getLogger(__name__)


# --- Memory allocator -----------------------------------------------------------------------------

_ACCELERATORS = ("/dev/nvidia[0-9]*", "/dev/accel*", "/dev/vfio/[0-9]*", "/dev/kfd", "/dev/dxg")
# Parameter numbers of mallopt, from glibc's malloc.h.
_M_TRIM_THRESHOLD, _M_MMAP_MAX, _M_ARENA_MAX = -1, -4, -8


def host_memory() -> int:
    """The memory of this machine in bytes, or of the container that the process runs in."""
    whole = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    limits = [whole]
    for file in _MEMORY_LIMITS:
        with contextlib.suppress(OSError, ValueError):  # no such file, or "max"
            limits.append(int(Path(file).read_text()))
    return min(limits)


_MEMORY_LIMITS = (
    "/sys/fs/cgroup/memory.max",
    "/sys/fs/cgroup/memory/memory.limit_in_bytes",
)


def computes_on_cpu() -> bool:
    """Whether JAX will compute on the CPU, as far as can be told without starting JAX."""
    platforms = os.environ.get("JAX_PLATFORMS")
    if platforms:
        return platforms.split(",")[0] == "cpu"
    return not any(glob.glob(pattern) for pattern in _ACCELERATORS)


def leave_out_libtpu() -> None:
    """Keeps JAX from starting libtpu where it is installed but there is no accelerator.

    It is installed for `vljax compile`. To look for a TPU that is not there, it prints ten lines.
    Does nothing if the user has set `JAX_PLATFORMS`. Call it before JAX is imported.
    """
    installed = importlib.util.find_spec("libtpu") is not None
    if installed and not os.environ.get("JAX_PLATFORMS") and computes_on_cpu():
        os.environ["JAX_PLATFORMS"] = "cpu"


def keep_freed_memory() -> bool:
    """Tells malloc to keep freed memory, in one heap; call it before threads start.

    The process then holds the largest amount of memory that it ever needed. Does nothing if the
    user has set a `MALLOC_` variable or `GLIBC_TUNABLES`.

    Returns:
      Whether it did: only on Linux with glibc, and only if JAX computes on the CPU.
    """
    # On the CPU, XLA allocates the temporaries of a program by malloc at each call and frees them
    # after it. By default glibc returns such large blocks to the kernel, and the next step gets
    # them back page by page, each filled with zeros: the figures are in docs/performance.md.
    chosen = any(name.startswith(("MALLOC_", "GLIBC_TUNABLES")) for name in os.environ)
    if chosen or sys.platform != "linux" or not computes_on_cpu():
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    # One arena: only the main heap can grow to the size of a step, others fall back to mmap.
    settings = ((_M_ARENA_MAX, 1), (_M_MMAP_MAX, 0), (_M_TRIM_THRESHOLD, -1))
    return all(mallopt(name, value) == 1 for name, value in settings)


# --- Compilation cache ----------------------------------------------------------------------------

# Each applies unless its environment variable is set. Programs that compile faster than 0.2 s take
# about as long to read. The least recently used programs are removed beyond 1 GiB.
_CACHE_OPTIONS = {
    "jax_persistent_cache_min_compile_time_secs": 0.2,
    "jax_compilation_cache_max_size": 2**30,
}


@functools.cache
def enable_compilation_cache() -> None:
    """Lets JAX keep compiled programs in the user's cache folder; call it before the first compile.

    Does nothing if the user has configured a cache in JAX or set `JAX_ENABLE_COMPILATION_CACHE=0`.
    If the folder cannot be written, logs a warning and programs are compiled at each start. With
    several processes, JAX writes in the first one only.
    """
    import jax  # not at the top: keep_freed_memory() runs before JAX is imported

    settings: Any = jax.config
    configured = settings.jax_compilation_cache_dir is not None
    if configured or not settings.jax_enable_compilation_cache:
        return
    path = compilation_cache_folder()
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path):
            pass
    except OSError as error:
        reason = f"{path}: {error.strerror}; set JAX_COMPILATION_CACHE_DIR to another folder"
        logger.warning("compiled programs are not kept: %s", reason)
        return
    for name, value in _CACHE_OPTIONS.items():
        if name.upper() not in os.environ:
            jax.config.update(name, value)
    jax.config.update("jax_compilation_cache_dir", str(path))


def compilation_cache_folder() -> Path:
    """The folder for compiled programs: $XDG_CACHE_HOME/vljax/compiled/HOST.

    HOST is a digest of the processor and its number of cores. CPU programs are compiled for both,
    and hosts with different processors may share a home folder. JAX itself keeps programs of
    different versions and options apart.
    """
    home = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    facts = platform.machine(), _processor(), os.cpu_count()
    host = hashlib.sha256(repr(facts).encode()).hexdigest()[:16]
    return Path(os.path.expanduser(home)) / "vljax" / "compiled" / host


def _processor() -> str:
    """The model and instruction sets of the processor, as text."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    names = ("model name", "flags", "Features")  # "Features" on ARM
    return "\n".join(sorted({line for line in lines if line.startswith(names)}))
