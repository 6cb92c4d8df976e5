"""Compile a recipe's training step for hardware you do not have: does it fit, what does it cost?

All numbers are read from the compiled program, or computed from the makers' figures of a device.
Nothing runs, and nothing is measured.
"""

from __future__ import annotations

import dataclasses
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax

from vljax.analysis import hlo, hlo_costs
from vljax.analysis.cost_model import Cost, collective_seconds, program_cost
from vljax.analysis.hlo import executions
from vljax.analysis.hlo_costs import program_flops, unknown_kernels
from vljax.analysis.jaxpr_flops import kernel_flops, training_flops
from vljax.analysis.topologies import Topology, devices
from vljax.host_process import enable_compilation_cache
from vljax.models import parameters
from vljax.models.assembly import Variables, build, example_batch
from vljax.models.compute import Compute
from vljax.programs import trace_step
from vljax.run import Prepared, Run, check_trains, prepare

GPU_SHARE = 0.75
"""The share of a GPU's memory that JAX takes by default (XLA_PYTHON_CLIENT_MEM_FRACTION)."""

_OPTIONS: dict[str, dict[str, Any]] = {
    # Triton products are chosen by timing kernels on the hardware. Without it, use cuBLAS.
    "gpu": {"xla_gpu_autotune_level": 0, "xla_gpu_enable_triton_gemm": False},
}
"""Compiler options that ahead-of-time compilation needs, by platform."""


@dataclass(frozen=True)
class Report:
    """Memory and predicted time of a step on a topology; None for values that are not known.

    Bytes, program FLOPs, cycles and seconds are for one device and one step. Predictions come from
    a cost model (`vljax.analysis.cost_model`); they are not measurements.
    """

    topology: str
    accelerator: str
    devices: int
    mesh: dict[str, int]
    global_batch: int
    image_patches: int | None
    """Longest sequence of patches in the recipe; None if images have one fixed size."""
    compile_seconds: float
    fits: bool
    model_flops: int
    """FLOPs of forward and backward pass over all devices, each matrix product once."""
    program_flops: int | None
    """FLOPs of the matrix products of the compiled program, recomputation included."""
    predicted_cycles: int | None
    """Sum of the compiler's estimates, for the instructions that have one."""
    predicted_step_seconds: float | None
    predicted_mfu: float | None
    """model_flops / (devices * peak * predicted seconds)."""
    uncosted_seconds: float | None
    """Part of the prediction: roofline time of instructions without a cycle estimate."""
    uncosted_flops_share: float | None
    """FLOPs of these instructions / program_flops."""
    exposed_collective_seconds: float | None
    """Part of the prediction: time of collectives that no computation overlaps."""
    exposed_copy_seconds: float | None
    """Part of the prediction: time of copies between memories that no computation overlaps."""
    roofline_compute_seconds: float | None
    roofline_memory_seconds: float | None
    roofline_interconnect_seconds: float | None
    argument_bytes: int | None
    output_bytes: int | None
    alias_bytes: int | None
    """Outputs that reuse the memory of arguments."""
    temp_bytes: int | None
    total_bytes: int | None
    """Arguments, outputs and temporaries, minus aliases."""
    device_memory_bytes: int
    clock_hz: float | None
    peak_flops: float
    collectives: list[dict[str, Any]] | None
    notes: list[str]
    proposals: list[dict[str, Any]]
    """If the recipe does not fit: overrides that were compiled, with their memory and time."""

    def as_dict(self) -> dict[str, Any]:
        """The report as JSON data."""
        return dataclasses.asdict(self)


def compile_report(run: Run, topology: Topology, say: Callable[[str], None]) -> Report:
    """Compiles the training step of a run for a topology and reports memory, FLOPs and time.

    Args:
      run: the recipe.
      topology: the devices to compile for.
      say: gets lines about the progress.

    Raises:
      UserError: for anything wrong with the recipe, or a compiler that is not installed.
    """
    enable_compilation_cache()
    prepared = prepare(run, devices(topology))
    check_trains(prepared)
    flops = model_flops(prepared)
    count, mesh = prepared.mesh.size, _in_words(prepared.mesh.shape)
    say(f"compiling for {topology.name}: {count} devices, {mesh} (some minutes for large models)")
    if lengths := run.data.image_lengths:
        say(f"images of {max(lengths)} patches: the longest of {len(lengths)} lengths")
    start = time.perf_counter()
    traced = trace_step(prepared)
    try:
        compiled = traced.lower().compile(_OPTIONS.get(topology.platform))
    except jax.errors.JaxRuntimeError as error:
        # The TPU compiler rejects a program that does not fit; its message has the bytes needed.
        overflow = needed_bytes(str(error))
        if overflow is None:
            raise
        seconds = time.perf_counter() - start
        return _report(prepared, topology, flops, seconds, overflow=overflow)
    seconds = time.perf_counter() - start
    module = hlo.parse(compiled.as_text())
    module = dataclasses.replace(module, kernels=kernel_flops(traced.jaxpr.jaxpr))
    return _report(prepared, topology, flops, seconds, (compiled.memory_analysis(), module))


def _in_words(mesh: Any) -> str:
    return " x ".join(f"{name} {size}" for name, size in mesh.items())


def model_flops(prepared: Prepared) -> int:
    """FLOPs of the model's matrix products in a step over the global batch.

    It counts forward and backward pass of the nodes whose outputs objectives read, and attention in
    full even if it is causal; it leaves out recomputation, the loss and the optimizer.
    """
    run = prepared.run
    # The default `Compute` uses no Pallas kernels, so that the jaxpr shows all products.
    initial = {name: s.initial for name, s in prepared.task.scalars.items()}
    model = build(run.model, Compute(), initial, run.low_rank)
    data = run.data.batch_spec(run.global_batch)
    batch = {
        name: jax.ShapeDtypeStruct(*data[name])
        for name in example_batch(run.model, run.global_batch)
    }
    params = prepared.shapes.params
    trained = [prepared.task.trained(group, params) for group in prepared.task.groups]
    # The compiler drops what no objective reads.
    read = {name for objective in run.objectives.values() for name in objective.reads()}

    def forward(trained: list[dict[str, Any]], params: dict[str, Any], batch: Any) -> Any:
        for part in trained:
            params = parameters.merge(params, part)
        variables = Variables(params, prepared.shapes.state)
        return model.apply(variables, batch, want=sorted(read))[0]

    return training_flops(forward, trained, params, batch)


def _report(
    prepared: Prepared,
    topology: Topology,
    flops: int,
    seconds: float,
    compiled: tuple[Any, hlo.Module] | None = None,
    overflow: int | None = None,
) -> Report:
    accelerator, mesh = topology.accelerator, prepared.mesh
    values: dict[str, Any] = {field.name: None for field in dataclasses.fields(Report)}
    values |= {
        "topology": topology.name,
        "accelerator": accelerator.name,
        "devices": mesh.size,
        "mesh": dict(mesh.shape),
        "global_batch": prepared.run.global_batch,
        "image_patches": max(prepared.run.data.image_lengths, default=None),
        "compile_seconds": round(seconds, 1),
        "fits": False,
        "model_flops": flops,
        "total_bytes": overflow,
        "device_memory_bytes": accelerator.memory_bytes,
        "clock_hz": accelerator.clock,
        "peak_flops": accelerator.peak_flops,
        "notes": list(prepared.notes),
        "proposals": [],
    }
    if compiled is not None:
        stats, module = compiled
        values |= _memory(stats, topology)
        values |= _costs(module, prepared, topology, flops)
        values["notes"] += _remarks(values, topology)
    values["notes"] += values.pop("unknown", [])
    return Report(**values)


def _memory(stats: Any, topology: Topology) -> dict[str, Any]:
    total = (
        stats.argument_size_in_bytes
        + stats.output_size_in_bytes
        + stats.temp_size_in_bytes
        - stats.alias_size_in_bytes
    )
    return {
        "argument_bytes": stats.argument_size_in_bytes,
        "output_bytes": stats.output_size_in_bytes,
        "alias_bytes": stats.alias_size_in_bytes,
        "temp_bytes": stats.temp_size_in_bytes,
        "total_bytes": total,
        "fits": total <= topology.accelerator.memory_bytes,
    }


def _costs(
    module: hlo.Module, prepared: Prepared, topology: Topology, flops: int
) -> dict[str, Any]:
    accelerator, mesh = topology.accelerator, prepared.mesh
    runs = executions(module)
    found = hlo_costs.collectives(module, runs, mesh)
    collective = collective_seconds(list(mesh.devices.flat), accelerator)
    cost: Cost = program_cost(module, runs, found, accelerator, collective)
    in_program = program_flops(module, runs)
    step = cost.seconds(accelerator.clock)
    unknown = [f"trips of loop {name} unknown: counted as one" for name in runs.unknown]
    unknown += [
        f"FLOPs of kernel {name} unknown: charged for its bytes only"
        for name in unknown_kernels(module)
    ]
    return {
        "program_flops": in_program,
        "predicted_cycles": cost.cycles if accelerator.clock else None,
        "predicted_step_seconds": step,
        "predicted_mfu": flops / mesh.size / accelerator.peak_flops / step,
        "uncosted_seconds": cost.uncosted_seconds,
        "uncosted_flops_share": cost.uncosted_flops / in_program if in_program else 0.0,
        "exposed_collective_seconds": cost.exposed_seconds,
        "exposed_copy_seconds": cost.copy_seconds,
        "roofline_compute_seconds": in_program / accelerator.peak_flops,
        "roofline_memory_seconds": cost.memory_bytes / accelerator.memory_bandwidth,
        "roofline_interconnect_seconds": sum(c.times * collective(c) for c in found),
        "collectives": hlo_costs.summarise(found),
        "unknown": unknown,
    }


def _remarks(values: dict[str, Any], topology: Topology) -> list[str]:
    notes = []
    if topology.slices > 1 and topology.accelerator.network_bandwidth is None:
        notes.append("the network between slices is not published: what crosses it costs nothing")
    share = values["total_bytes"] / topology.accelerator.memory_bytes
    if topology.platform == "gpu" and GPU_SHARE < share <= 1:
        notes.append(
            f"takes {share:.0%} of the memory: set XLA_PYTHON_CLIENT_MEM_FRACTION above that "
            f"(default {GPU_SHARE})"
        )
    return notes


_UNITS = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}


def needed_bytes(message: str) -> int | None:
    """Bytes that a program needs, from the error of a compiler that ran out of memory.

    None for another error, or if on-chip memory ran out. If the compiler stops at the temporaries,
    the bytes of those only.

    >>> needed_bytes("RESOURCE_EXHAUSTED: Ran out of memory in memory space hbm. Used 20G of 15G")
    21474836480
    """
    # On-chip memory runs out in a kernel that is too large; no other mesh or batch would help.
    on_chip = re.search(r"memory space (vmem|smem|sflag|cmem)", message)
    if "RESOURCE_EXHAUSTED" not in message or on_chip:
        return None
    for form in (r"Used ([\d.]+)([KMGT]?) of", r"temporaries \(([\d.]+)([KMGT]?)\)"):
        if match := re.search(form, message):
            return int(float(match[1]) * _UNITS[match[2]])
    return None
