"""Set-up of all tests: CPU with eight devices, shapes and types of vljax checked at run time."""

# ruff: noqa: E402  JAX reads the environment when it is imported

import atexit
import os
import shutil
import tempfile
from typing import Any

os.environ["JAX_PLATFORMS"] = "cpu"
# A program compiled once serves all tests of a pytest process, and the processes that they start;
# the user's are no business of tests. Several pytest processes must not write to one folder.
worker = os.environ.get("PYTEST_XDIST_WORKER", "")
if not worker:
    os.environ["VLJAX_TESTS_COMPILED"] = tempfile.mkdtemp(prefix="vljax-tests-")
    atexit.register(shutil.rmtree, os.environ["VLJAX_TESTS_COMPILED"], ignore_errors=True)
os.environ["JAX_COMPILATION_CACHE_DIR"] = os.path.join(os.environ["VLJAX_TESTS_COMPILED"], worker)
os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.1"
os.environ["JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES"] = "-1"
# Tests compile many small programs and run each a few times: compile quickly, run slowly.
os.environ["XLA_FLAGS"] = " ".join(
    (
        os.environ.get("XLA_FLAGS", ""),
        "--xla_backend_optimization_level=0",
        "--xla_llvm_disable_expensive_passes=true",
    )
)

import jax
from beartype import BeartypeConf, beartype
from jaxtyping import install_import_hook

jax.config.update("jax_num_cpu_devices", 8)


# An int is a float, as for type checkers (PEP 484).
check = beartype(conf=BeartypeConf(is_pep484_tower=True))


def checked(function: Any) -> Any:
    """A function that checks its arguments and results, under jit while it is traced.

    Constructors of dataclasses are left as they are: a recipe with a value of the wrong type can be
    built, and `config.validate` has to say so.
    """
    return function if function.__name__ == "__init__" else check(function)


# Before anything imports vljax.
install_import_hook("vljax", f"{__name__}.checked")
