"""Proposals for a recipe that does not fit a topology; each one is compiled."""

from __future__ import annotations

import dataclasses
import shlex
from collections.abc import Callable

import jax

from vljax.analysis.compile import Report, compile_report
from vljax.analysis.topologies import Topology
from vljax.config import UserError
from vljax.overrides import override
from vljax.run import Run

_LARGEST_FSDP = 64
"""Parts beyond which fsdp does not divide parameters of common widths."""
_MARGIN = 1.1
"""Factor on the reduction: not all memory of a step shrinks with the batch."""


def compile_or_propose(run: Run, topology: Topology, say: Callable[[str], None]) -> Report:
    """The report of a run; if it does not fit, with proposals that were compiled too.

    Raises:
      UserError: as `vljax.analysis.compile.compile_report`.
    """
    report = compile_report(run, topology, say)
    if report.fits:
        return report
    rows = []
    for arguments in candidates(run, report):
        overrides = shlex.join(arguments)
        say(f"does not fit; trying {overrides}")
        try:
            tried = compile_report(override(run, arguments), topology, say)
        except (UserError, jax.errors.JaxRuntimeError) as error:
            say(f"not possible: {str(error).splitlines()[0]}")
            continue
        names = ("fits", "total_bytes", "predicted_step_seconds", "predicted_mfu")
        rows.append({"overrides": overrides, **{name: getattr(tried, name) for name in names}})
    return dataclasses.replace(report, proposals=rows)


def candidates(run: Run, report: Report) -> list[list[str]]:
    """Overrides that may make a step fit: each remedy alone, then all of them; at most 4."""
    remedies = [_remat(run), _accumulation(run, report), _fsdp(report)]
    alone = [remedy for remedy in remedies if remedy]
    together = [argument for remedy in alone for argument in remedy]
    return alone + ([together] if len(alone) > 1 else [])


def _remat(run: Run) -> list[str]:
    """Recompute the activations of all encoders in the backward pass."""
    arguments = []
    for name, encoder in run.model.encoders.items():
        if getattr(encoder, "remat", "full") != "full":
            arguments += [f"--model.nodes.{name}.remat", "full"]
    return arguments


def _accumulation(run: Run, report: Report) -> list[str]:
    """Accumulate gradients over parts of the batch, small enough for the memory."""
    rows = report.global_batch // (report.mesh["data"] * report.mesh["fsdp"])
    missing = _MARGIN * (report.total_bytes or 0) / report.device_memory_bytes
    parts = run.accumulate
    while parts < run.accumulate * missing and rows % (2 * parts) == 0:
        parts *= 2
    return ["--accumulate", str(parts)] if parts > run.accumulate else []


def _fsdp(report: Report) -> list[str]:
    """Split parameters and optimizer state over more devices."""
    devices, fsdp = report.mesh["data"] * report.mesh["fsdp"], report.mesh["fsdp"]
    while devices % (2 * fsdp) == 0 and 2 * fsdp <= _LARGEST_FSDP:
        fsdp *= 2
    if fsdp == report.mesh["fsdp"]:
        return []
    return ["--mesh.data", "-1", "--mesh.fsdp", str(fsdp)]
