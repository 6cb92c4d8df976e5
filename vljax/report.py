"""What commands print for people."""

from __future__ import annotations

import math
from typing import Any

import jax
from rich.console import Console
from rich.table import Table

from vljax.launch import Finished
from vljax.run import Prepared


def summarise(prepared: Prepared) -> dict[str, Any]:
    """What a checked run is, as data."""
    run = prepared.run
    groups = {
        name: sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(part))
        for name, part in prepared.shapes.params.items()
    }
    return {
        "parameters": {**groups, "total": sum(groups.values())},
        "platform": prepared.platform,
        "precision": run.precision.resolve(prepared.platform).compute,
        "mesh": dict(prepared.mesh.shape),
        "steps": run.steps,
        "global_batch": run.global_batch,
        "examples": run.steps * run.global_batch,
        "notes": prepared.notes,
    }


def print_summary(spec: str, summary: dict[str, Any]) -> None:
    """The summary of a check on standard output."""
    table = Table(title=f"{spec}: can run", title_justify="left", show_header=False)
    for name, count in summary["parameters"].items():
        table.add_row(f"parameters, {name}", f"{count:,}")
    mesh = " x ".join(f"{name} {size}" for name, size in summary["mesh"].items())
    table.add_row("mesh", f"{mesh} ({summary['platform']}, {summary['precision']})")
    table.add_row("steps", f"{summary['steps']:,}")
    table.add_row("global batch", f"{summary['global_batch']:,}")
    table.add_row("examples seen", f"{summary['examples']:,}")
    console = Console()
    console.print(table)
    for note in summary["notes"]:
        console.print(f"note: {note}", highlight=False, markup=False, soft_wrap=True)


def print_finished(finished: Finished) -> None:
    """The metrics of a finished run and where everything is, on standard output."""
    table = Table(title=f"after step {finished.step:,}", title_justify="left")
    for header, justify in (("metric", "left"), ("value", "right"), ("chance", "right")):
        table.add_column(header, justify=justify)  # type: ignore[arg-type]
    for name, value in sorted(finished.metrics.items()):
        if not name.endswith("_chance"):
            chance = finished.metrics.get(f"{name}_chance")
            table.add_row(name, _number(value), "" if chance is None else _number(chance))
    console = Console()
    console.print(table)
    paths = [f"{finished.workdir}/checkpoints/{finished.step}", f"{finished.workdir}/metrics.jsonl"]
    for path in [*paths, *finished.plots]:
        console.print(str(path), highlight=False, markup=False, soft_wrap=True)


def _number(value: float | None) -> str:
    return "not finite" if value is None else f"{value:.4g}"
