"""Compiled programs are kept on disk, so that the next start need not compile them again."""

from __future__ import annotations

import functools
import hashlib
import logging
import os
import platform
import tempfile
from pathlib import Path
from typing import Any

import jax

_BYTES = 2**30
"""Of all programs together; the least recently used go first."""

# Each holds unless its environment variable is set. Programs that compile in less are hardly read
# faster than made.
_OPTIONS = {
    "jax_persistent_cache_min_compile_time_secs": 0.2,
    "jax_compilation_cache_max_size": _BYTES,
}

logger = logging.getLogger(__name__)


@functools.cache
def keep_compiled() -> None:
    """Lets JAX keep compiled programs in the user's cache folder; before the first compile.

    A cache that the user has set up in JAX stays as it is, and `JAX_ENABLE_COMPILATION_CACHE=0`
    turns it off. A folder that cannot be written is logged, and programs are compiled each time.
    In a run of several processes, JAX writes in the first one only.
    """
    settings: Any = jax.config
    set_up = settings.jax_compilation_cache_dir is not None
    if set_up or not settings.jax_enable_compilation_cache:
        return
    path = folder()
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path):
            pass
    except OSError as error:
        reason = f"{path}: {error.strerror}; set JAX_COMPILATION_CACHE_DIR to another folder"
        logger.warning("compiled programs are not kept: %s", reason)
        return
    for name, value in _OPTIONS.items():
        if name.upper() not in os.environ:
            jax.config.update(name, value)
    jax.config.update("jax_compilation_cache_dir", str(path))


def folder() -> Path:
    """Where programs are kept: $XDG_CACHE_HOME/vljax/compiled, a folder for each kind of host.

    A home may be shared by hosts whose processors differ, and programs for the CPU are made for the
    processor at hand and its number of cores. JAX tells apart everything else, and its own version.
    """
    home = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(home).expanduser() / "vljax" / "compiled" / _host()


def _host() -> str:
    facts = platform.machine(), _processor(), os.cpu_count()
    return hashlib.sha256(repr(facts).encode()).hexdigest()[:16]


def _processor() -> str:
    """What tells instruction sets apart."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    names = ("model name", "flags", "Features")  # the last on ARM
    return "\n".join(sorted({line for line in lines if line.startswith(names)}))
