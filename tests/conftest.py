"""Set-up of all tests: CPU with eight devices, shapes and types of vljax checked at run time."""

import os

os.environ["JAX_PLATFORMS"] = "cpu"
# Tests compile many small programs and run each a few times: compile quickly, run slowly.
os.environ["XLA_FLAGS"] = " ".join(
    (
        os.environ.get("XLA_FLAGS", ""),
        "--xla_backend_optimization_level=0",
        "--xla_llvm_disable_expensive_passes=true",
    )
)

import jax
from jaxtyping import install_import_hook

jax.config.update("jax_num_cpu_devices", 8)

# Before anything imports vljax. Annotations that carry shapes are then checked at every call (under
# jit while tracing).
install_import_hook("vljax", "beartype.beartype")
