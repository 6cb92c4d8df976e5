"""Set-up of all tests: CPU with eight devices, shapes and types of vljax checked at run time."""

import os
from typing import Any

os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["JAX_ENABLE_COMPILATION_CACHE"] = "0"  # the user's is no business of tests
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
from hypothesis import settings
from jaxtyping import install_import_hook

pytest_plugins = ["tests.plugin"]
jax.config.update("jax_num_cpu_devices", 8)
# On a busy machine a deadline fails a test that is right.
settings.register_profile("vljax", deadline=None)
settings.load_profile("vljax")


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
