"""`vljax compile RECIPE --topology TOPOLOGY`: compiles the training step without devices."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from rich import box
from rich.console import Console
from rich.table import Table

from vljax.commands.output import print_line, write_json
from vljax.commands.recipe_arguments import load_run, take_option
from vljax.config import UserError
from vljax.files import format_bytes

if TYPE_CHECKING:
    from vljax.analysis.compile import Report

Rows = Iterator[tuple[str, str]]


def run(argv: list[str], json_path: str | None, prog: str) -> int:
    """Runs the command; returns the exit status, 1 if the step does not fit the devices.

    Raises:
      UserError: for a bad recipe or topology.
    """
    from vljax.analysis.topologies import quiet_environment, topology

    name, argv = take_option("--topology", "a name, such as v5e:4x4 or h100:8", argv)
    if name is None and "--help" not in argv:
        raise UserError(f"add --topology, such as: {prog} {argv[0]} --topology v5e:4x4")
    target = topology(name or "v5e:4x4")
    quiet_environment(os.environ)  # before JAX is imported
    recipe = load_run(argv, prog)
    from vljax.analysis.proposals import compile_or_propose

    def report_progress(line: str) -> None:
        print(line, file=sys.stderr, flush=True)

    report = compile_or_propose(recipe, target, report_progress)
    if json_path != "-":
        print_compiled(argv[0], report)
    write_json(json_path, report.as_dict())
    return 0 if report.fits else 1


def print_compiled(spec: str, report: Report) -> None:
    """Prints the size of the program, its collectives, and the predicted time of a step."""
    console = Console(emoji=False)
    verdict = "fits" if report.fits else "does not fit"
    print_line(console, f"{spec} on {report.topology} ({report.accelerator}): {verdict}")
    table = Table(box=box.HORIZONTALS, show_header=False)
    table.add_column(overflow="fold")
    table.add_column(justify="right", overflow="fold")
    for rows in (_program(report), _memory(report), _collectives(report), _predicted(report)):
        for name, value in rows:
            table.add_row(name, value)
        table.add_section()
    console.print(table)
    for note in report.notes:
        print_line(console, f"note: {note}")
    for row in report.proposals:
        print_line(console, _proposal(row))
    if report.predicted_step_seconds is not None:
        print_line(console, "Predictions are estimates of a cost model, not measurements.")


def _program(report: Report) -> Rows:
    mesh = " x ".join(f"{name} {size}" for name, size in report.mesh.items())
    yield "devices", f"{report.devices:,}: {mesh}"
    yield "global batch", f"{report.global_batch:,}"
    if report.image_patches is not None:
        yield "patches of an image", f"{report.image_patches:,}"
    yield "seconds to compile", f"{report.compile_seconds:.1f}"
    yield "model FLOPs of all devices", f"{report.model_flops:.4g}"
    if report.program_flops is not None:
        share = report.model_flops / report.devices / report.program_flops
        yield "program FLOPs of a device", f"{report.program_flops:.4g} ({share:.0%} of them model)"


def _memory(report: Report) -> Rows:
    for name in ("argument", "output", "alias", "temp"):
        size = getattr(report, f"{name}_bytes")
        if size is not None:
            yield _BYTES[name], format_bytes(size)
    if report.total_bytes is not None:
        total, memory = report.total_bytes, report.device_memory_bytes
        of = f"{format_bytes(total)} of {format_bytes(memory)} ({total / memory:.0%})"
        yield "on each device, in all", of


_BYTES = {
    "argument": "on each device, arguments",
    "output": "on each device, outputs",
    "alias": "on each device, shared by both",
    "temp": "on each device, temporaries",
}


def _collectives(report: Report) -> Rows:
    for row in report.collectives or []:
        overlapped = row["overlapped_bytes"] / row["bytes"] if row["bytes"] else 0.0
        where = f"{row['kind']} over {' and '.join(row['axes'])}"
        text = f"{row['count']:,}, {format_bytes(row['bytes'])}"
        yield where, text + (f", {overlapped:.0%} overlapped" if overlapped else "")


def _predicted(report: Report) -> Rows:
    if report.predicted_step_seconds is None or report.predicted_mfu is None:
        return
    if report.predicted_cycles is not None and report.clock_hz is not None:
        clock = f"at {report.clock_hz / 1e9:.2f} GHz"
        yield "predicted cycles", f"{report.predicted_cycles:.4g} {clock}"
        seconds = report.predicted_cycles / report.clock_hz
        yield "  their time", _duration(seconds)
    share = f"with {report.uncosted_flops_share:.0%} of the FLOPs"
    yield "  roofline of what has none", f"{_duration(report.uncosted_seconds)} {share}"
    yield "  collectives not overlapped", _duration(report.exposed_collective_seconds)
    yield "  copies not overlapped", _duration(report.exposed_copy_seconds)
    yield "predicted step", _duration(report.predicted_step_seconds)
    yield "predicted MFU", f"{report.predicted_mfu:.1%} of {report.peak_flops / 1e12:.0f} TFLOP/s"
    yield "roofline, compute", _duration(report.roofline_compute_seconds)
    yield "roofline, memory", _duration(report.roofline_memory_seconds)
    yield "roofline, interconnect", _duration(report.roofline_interconnect_seconds)


def _proposal(row: dict[str, Any]) -> str:
    needs = "unknown" if row["total_bytes"] is None else format_bytes(row["total_bytes"])
    if not row["fits"]:
        return f"tried: {row['overrides']}: does not fit either ({needs})"
    takes = _duration(row["predicted_step_seconds"])
    return f"fits with: {row['overrides']} ({needs}, predicted step {takes})"


def _duration(seconds: float | None) -> str:
    if seconds is None:
        return ""
    return f"{seconds:.4g} s" if seconds >= 1 else f"{seconds * 1e3:.4g} ms"
