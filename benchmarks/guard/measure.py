"""Compiles the training step of a case and counts its FLOPs, bytes and instructions.

`counts` runs `python -m benchmarks.guard.measure NAME`, which prints JSON, in a process with a
clean environment: XLA's programs depend on flags and, for CPU, on the host.
"""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.guard.cases import CASES, Case

if TYPE_CHECKING:
    from vljax.analysis.hlo import Executions, Module
    from vljax.run import Prepared

ROOT = Path(__file__).parents[2]
PINNED = {
    "XLA_FLAGS": "--xla_cpu_max_isa=AVX2",  # do not use newer vector units of the host
    "PJRT_NPROC": "2",  # XLA splits loops over this number of cores
}
"""Environment in which the CPU compiler makes the same program on all hosts."""
_SETTINGS = ("JAX_", "XLA_", "LIBTPU_", "TPU_", "PJRT_")


def counts(name: str) -> dict[str, int]:
    """The counts of a case (`benchmarks.guard.cases`), from a process of its own.

    Raises:
      SystemExit: if it cannot be compiled; the reason is on standard error.
    """
    clean = {k: v for k, v in os.environ.items() if not k.startswith(_SETTINGS)}
    command = [sys.executable, "-m", "benchmarks.guard.measure", name]
    run = subprocess.run(command, cwd=ROOT, env=clean | PINNED, stdout=subprocess.PIPE, text=True)
    if run.returncode:
        raise SystemExit(f"{name}: {shlex.join(command)} failed with status {run.returncode}")
    result: dict[str, int] = json.loads(run.stdout)
    return result


def measure(case: Case) -> dict[str, int]:
    """The counts of a case, compiled in this process."""
    from vljax.analysis.topologies import devices, quiet_environment, topology

    quiet_environment(os.environ)  # before anything imports JAX
    import jax

    from vljax import config
    from vljax.analysis import hlo
    from vljax.analysis.hlo import executions
    from vljax.analysis.hlo_costs import program_flops
    from vljax.overrides import override
    from vljax.programs import trace_step
    from vljax.run import Run, prepare

    run = override(config.load(case.recipe, Run), shlex.split(case.overrides), "counts", "")
    on_host = case.target == "cpu"
    prepared = prepare(run, jax.devices()[:1] if on_host else devices(topology(case.target)))
    compiled = trace_step(prepared).lower().compile()
    module = hlo.parse(compiled.as_text())
    runs = executions(module)
    memory = compiled.memory_analysis()
    return {
        "program_flops": program_flops(module, runs),
        "memory_bytes": moved_bytes(module, runs),
        "argument_bytes": memory.argument_size_in_bytes,
        "temp_bytes": memory.temp_size_in_bytes,
        **instructions(module, runs),
        **({} if on_host else _predicted(module, runs, prepared, case.target)),
    }


def moved_bytes(module: Module, runs: Executions) -> int:
    """Bytes of main memory that a step reads and writes."""
    from vljax.analysis.hlo_costs import memory_bytes

    return sum(
        runs.times[name] * memory_bytes(module, module.computations[name], instruction)
        for name in runs.scheduled
        for instruction in module.computations[name].instructions.values()
    )


def instructions(module: Module, runs: Executions) -> dict[str, int]:
    """How many transposes and copies a step runs: those inside fusions too, loops times trips.

    So a scanned layer counts as much as an unrolled one. `copy-start`, which prefetches into the
    on-chip memory of a TPU, does not count as a copy.
    """
    found: Counter[str] = Counter()
    for name, times in runs.times.items():
        for instruction in module.computations[name].instructions.values():
            found[instruction.opcode] += times
    return {"transposes": found["transpose"], "copies": found["copy"]}


def _predicted(module: Module, runs: Executions, prepared: Prepared, target: str) -> dict[str, int]:
    """The sum of the compiler's cycle estimates, and the predicted step in cycles.

    The second adds kernels, exposed collectives and copies (`vljax.analysis.cost_model`).
    """
    from vljax.analysis.cost_model import collective_seconds, program_cost
    from vljax.analysis.hlo_costs import collectives
    from vljax.analysis.topologies import topology

    accelerator, mesh = topology(target).accelerator, prepared.mesh
    found = collectives(module, runs, mesh)
    seconds = collective_seconds(list(mesh.devices.flat), accelerator)
    cost = program_cost(module, runs, found, accelerator, seconds)
    assert accelerator.clock is not None, f"{target} is no TPU"
    whole = round(cost.seconds(accelerator.clock) * accelerator.clock)
    return {"predicted_cycles": cost.cycles, "predicted_step_cycles": whole}


if __name__ == "__main__":
    answer: Any = sys.stdout
    sys.stdout = sys.stderr
    print(json.dumps(measure(CASES[sys.argv[1]])), file=answer)
