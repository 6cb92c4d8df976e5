"""Commands as a person runs them: processes of their own, from the root of the repository."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="session")
def environment(tmp_path_factory):
    """One device, as on a laptop; all tests share compiled programs."""
    flags = "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"
    return {
        **{
            k: v
            for k, v in os.environ.items()
            if not k.startswith(("JAX_", "XLA_", "PYTHONDONTWRITEBYTECODE"))
        },
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": flags,
        "JAX_COMPILATION_CACHE_DIR": str(tmp_path_factory.mktemp("compiled")),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
        "COLUMNS": "200",
    }


@pytest.fixture(scope="session")
def start(environment):
    """Starts `python ARGS` without waiting."""

    def run(*args, **options):
        return subprocess.Popen(
            [sys.executable, *map(str, args)],
            cwd=ROOT,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            **options,
        )

    return run


@pytest.fixture(scope="session")
def call(start):
    """Runs `python ARGS` to its end: (exit status, stdout, stderr)."""

    def run(*args, **options):
        process = start(*args, **options)
        out, err = process.communicate(timeout=300)
        return process.returncode, out, err

    return run


@pytest.fixture(scope="session")
def refused(call):
    """Runs a command that must be refused; returns its one line of error."""

    def run(*args, **options):
        status, out, err = call(*args, **options)
        lines = [line for line in err.splitlines() if not line.startswith(("note: ", "warning: "))]
        assert (status, out, len(lines)) == (2, "", 1), (status, out, err)
        assert lines[0].startswith("error: ")
        return lines[0]

    return run
