"""What commands print for people."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from itertools import groupby
from typing import Any

import jax
from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from vljax import config
from vljax.launch import Finished
from vljax.run import Prepared
from vljax.training import storage


def summarise(prepared: Prepared) -> dict[str, Any]:
    """What a checked run is, as data; `ready` says whether it could train as it stands."""
    run = prepared.run
    groups = {
        name: sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(part))
        for name, part in prepared.shapes.params.items()
    }
    unset = [path for path, value in config.paths(run) if value is None]
    return {
        "ready": not unset,
        "unset": unset,
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
    mesh = " x ".join(f"{name} {size}" for name, size in summary["mesh"].items())
    rows = [(f"parameters, {name}", f"{n:,}") for name, n in summary["parameters"].items()]
    rows += [
        ("steps", f"{summary['steps']:,}"),
        ("global batch", f"{summary['global_batch']:,}"),
        ("examples seen", f"{summary['examples']:,}"),
        ("mesh", mesh),
        ("platform", f"{summary['platform']}, {summary['precision']}"),
    ]
    table = Table(box=box.HORIZONTALS, show_header=False)
    table.add_column(overflow="fold")
    table.add_column(justify="right", overflow="fold")
    for name, value in rows:
        table.add_row(name, value)
    console = Console()
    _say(console, f"{spec}: valid")
    console.print(table)
    unset = {f"{path}: unset" for path in summary["unset"]}
    for note in summary["notes"]:
        if note not in unset:
            _say(console, f"note: {note}")
    if unset:
        _say(console, f"to train, set: {', '.join(f'--{path}' for path in summary['unset'])}")


def print_finished(finished: Finished) -> None:
    """The metrics of a finished run and where everything is, on standard output."""
    table = Table(box=box.HORIZONTALS)
    table.add_column("metric", overflow="fold")
    table.add_column("value", justify="right", no_wrap=True)
    table.add_column("chance", justify="right", no_wrap=True)
    names = sorted((n for n in finished.metrics if not n.endswith("_chance")), key=_order)
    for group, members in groupby(names, key=_group):
        table.add_section()
        table.add_row(f"[bold]{escape(group)}[/bold]")
        for name in members:
            short = name.removeprefix(f"{group}/")
            table.add_row(f"  {escape(short)}", *_values(name, finished.metrics))
    console = Console()
    _say(console, f"after step {finished.step:,}")
    console.print(table)
    rows = "metrics.jsonl" if storage.is_local(finished.workdir) else "metrics/"
    for path in (f"checkpoints/{finished.step}", rows):
        _say(console, f"{finished.workdir}/{path}")
    for plot in finished.plots:
        _say(console, str(plot))


def _say(console: Console, line: str) -> None:
    console.print(line, highlight=False, markup=False, soft_wrap=True)


def _group(name: str) -> str:
    """What a metric is of: KIND/DATASET/SPLIT of an evaluator, or the training."""
    return "/".join(name.split("/")[:3]) if _is_evaluation(name) else "training"


def _is_evaluation(name: str) -> bool:
    """Evaluators name their metrics KIND/DATASET/SPLIT/..., training OBJECTIVE/NAME or NAME."""
    return name.count("/") >= 3


def _order(name: str) -> tuple[Any, ...]:
    """Evaluation first; then by name, with recall@5 before recall@10."""
    natural = [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", name)]
    return not _is_evaluation(name), _group(name), natural


def _values(name: str, metrics: Mapping[str, float | None]) -> tuple[str, str]:
    chance = f"{name}_chance"
    return _number(metrics[name]), _number(metrics[chance]) if chance in metrics else ""


def _number(value: float | None) -> str:
    if value is None:
        return "not finite"
    if value == round(value) or abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.4f}" if 1e-3 <= abs(value) < 1 else f"{value:.4g}"
