"""`vljax train RECIPE`: trains, or continues a run, and prints its final metrics."""

from __future__ import annotations

import re
import shlex
import signal
import sys
from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import TYPE_CHECKING, Any

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from vljax import config
from vljax.commands.output import print_line, write_json
from vljax.commands.recipe_arguments import load_run

if TYPE_CHECKING:
    from vljax.launch import Finished
    from vljax.run import Run


def run(argv: list[str], json_path: str | None, prog: str) -> int:
    """Runs the command; returns the exit status, 128 + signal if a signal stopped the run.

    Raises:
      UserError: for a bad recipe, data set or workdir.
    """
    from vljax.host_process import keep_freed_memory

    keep_freed_memory()  # before NumPy and JAX start threads
    return train_recipe(load_run(argv, prog), [*prog.split(), *argv], json_path)


def train_recipe(recipe: Run, again: Sequence[str], json_path: str | None) -> int:
    """Trains a recipe and prints its final metrics; returns the exit status as `run` does.

    Args:
      recipe: the run, with its workdir.
      again: the command that goes on with the run, to print if a signal stops it.
      json_path: where to write the result as JSON; "-" for standard output.

    Raises:
      UserError: for a bad recipe, data set or workdir.
    """
    if recipe.workdir is not None and "://" in recipe.workdir:
        config.path_exists(recipe.workdir)  # raises if the remote folder cannot be reached

    from vljax.launch import train
    from vljax.parallel.processes.start import is_first
    from vljax.training.interrupt import Interrupted

    try:
        finished = train(recipe)
    except Interrupted as stop:
        to_json = [] if json_path is None else ["--json", json_path]
        name = signal.Signals(stop.signum).name
        if is_first():
            saved = f"stopped by {name}; saved at step {stop.step}"
            print(f"{saved}. To go on: {shlex.join([*again, *to_json])}", file=sys.stderr)
        return 128 + stop.signum
    if finished is None:
        return 0  # only the first process prints
    print_finished(finished)
    write_json(json_path, {"workdir": finished.workdir, "step": finished.step, **finished.metrics})
    return 0


def print_finished(finished: Finished) -> None:
    """Prints the metrics of a finished run, and the paths of its files."""
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
    # Not at the top: NumPy and JAX must be imported after `keep_freed_memory`.
    from vljax.training.checkpoint import storage

    console = Console(emoji=False)
    print_line(console, f"after step {finished.step:,}")
    console.print(table)
    rows = "metrics.jsonl" if storage.is_local(finished.workdir) else "metrics/"
    for path in (f"checkpoints/{finished.step}", rows):
        print_line(console, f"{finished.workdir}/{path}")
    for plot in finished.plots:
        print_line(console, str(plot))


def _group(name: str) -> str:
    """The heading of a metric: EVALUATOR/DATASET/SPLIT, or "training"."""
    return "/".join(name.split("/")[:3]) if _is_evaluation(name) else "training"


def _is_evaluation(name: str) -> bool:
    """Evaluation metrics are EVALUATOR/DATASET/SPLIT/...; training metrics [OBJECTIVE/]NAME."""
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
