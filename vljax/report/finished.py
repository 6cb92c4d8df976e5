"""What is printed of a finished run."""

from __future__ import annotations

import re
from collections.abc import Mapping
from itertools import groupby
from typing import Any

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from vljax.launch import Finished
from vljax.report.text import say
from vljax.training.checkpoint import storage


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
    say(console, f"after step {finished.step:,}")
    console.print(table)
    rows = "metrics.jsonl" if storage.is_local(finished.workdir) else "metrics/"
    for path in (f"checkpoints/{finished.step}", rows):
        say(console, f"{finished.workdir}/{path}")
    for plot in finished.plots:
        say(console, str(plot))


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
