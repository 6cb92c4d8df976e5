"""Folders of StableHLO programs (`jax.export`): see `functions.py`; weights in safetensors."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import jax
import jax.numpy as jnp

from vljax.interop import plain
from vljax.interop.export_plan import ExportIssues, ExportPlan, TrainedModel
from vljax.interop.exported import WEIGHTS
from vljax.interop.files.safetensors import SHARD_BYTES, Progress, write_folder
from vljax.interop.files.tensors import FLOATS, Lazy
from vljax.interop.formats import Format
from vljax.interop.programs import folder
from vljax.interop.programs.functions import ProgramFunction, program_functions
from vljax.models.compute import Compute
from vljax.models.kernels.attention.reference import cpu_attention
from vljax.models.kernels.choose import Kernels
from vljax.models.kernels.depthwise import shifted_sum

PLATFORMS = ("cpu", "cuda", "tpu")


def _write(trained: TrainedModel, issues: ExportIssues) -> ExportPlan:
    with issues.part("data"):
        folder.check(trained, issues)
    # One program runs on every platform, so it avoids XLA's grouped convolutions, which are slow
    # on CPU.
    low = trained.dtype == "bfloat16"
    kernels = Kernels(attention=cpu_attention, depthwise_convolution=shifted_sum)
    compute = Compute(jnp.bfloat16 if low else jnp.float32, kernels=kernels)
    functions = program_functions(trained, issues, compute, FLOATS[trained.dtype])

    def write(out: Path, tensors: Mapping[str, Lazy], progress: Progress) -> list[Path]:
        exported = {each.name: _exported(each) for each in functions}
        programs = {f"{name}.stablehlo": one.serialize() for name, one in exported.items()}
        described = {
            each.name: {
                **folder.described(each, f"{each.name}.stablehlo"),
                "platforms": list(exported[each.name].platforms),
                "calling_convention_version": exported[each.name].calling_convention_version,
            }
            for each in functions
        }
        files = write_folder(out, WEIGHTS, tensors, progress, SHARD_BYTES)
        for name, content in programs.items():
            (out / name).write_bytes(bytes(content))
        folder.finish(out, trained, "stablehlo", described, files)
        return files

    rules = plain.rules([*trained.parameters, *trained.statistics])
    return ExportPlan(rules, {}, write)


def _exported(function: ProgramFunction) -> jax.export.Exported:
    (batch,) = jax.export.symbolic_shape("batch")
    # Accelerators round float32 products by default; exported programs compute in full float32.
    with jax.default_matmul_precision("highest"):
        export = jax.export.export(jax.jit(function.__call__), platforms=PLATFORMS)
        return export(dict(function.weights), function.batch(batch))


FORMAT = Format(
    "a folder of StableHLO programs", lambda path: False, None, _write, stores_statistics=True
)
