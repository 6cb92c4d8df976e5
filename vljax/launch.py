"""From a recipe to a finished run: workdir, resume, loop, plots."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import jax
from rich.console import Console

from vljax import config
from vljax.config import UserError
from vljax.data.evaluation_set import EvaluationSet
from vljax.evaluation.evaluator import Encode, Evaluator
from vljax.evaluation.plots import plot_run
from vljax.evaluation.retrieval import Retrieval
from vljax.evaluation.retrieval_grid import plot_retrieval_grid, retrieval_grid
from vljax.models.assembly import Variables
from vljax.programs import compile_step, device_batches, hyper, initial_state, make_encode
from vljax.run import Prepared, Run, prepare
from vljax.training import metrics, storage
from vljax.training.checkpoint import Checkpointer
from vljax.training.loop import Cadence, Evaluate, Loop
from vljax.training.progress import ProgressDisplay
from vljax.training.state import TrainState
from vljax.workdir import checkpoint_files, describe, refuse_another_recipe, resume

Say = Callable[[str], None]
BindEncode = Callable[[Variables], Encode]


@dataclass(frozen=True)
class Finished:
    """What a run left behind."""

    workdir: str
    step: int
    metrics: dict[str, float | None]
    """The last value of every metric; None where it was not finite."""
    plots: list[Path]


def train(run: Run, console: Console | None = None) -> Finished:
    """Trains, evaluates and saves; goes on from the newest checkpoint of the workdir.

    Raises:
      UserError: for anything wrong with recipe, data or workdir, before any compile; and later if
        a checkpoint cannot be written.
      Interrupted: after SIGINT or SIGTERM, once everything is saved.
    """
    console = console or Console(stderr=True)
    say = _speaker(console)
    workdir = str(storage.absolute(_require_set(run)))
    prepared = prepare(dataclasses.replace(run, workdir=workdir))
    run = prepared.run
    for note in prepared.notes:
        say(f"note: {note}")

    files = checkpoint_files(prepared)
    data = {path: _open(run, path, e) for path, e in run.all_evaluators.items()}
    if warning := storage.check_space(workdir, storage.required_bytes(prepared.shapes)):
        say(f"warning: {warning}")
    refuse_another_recipe(workdir, run)
    checkpointer = Checkpointer(workdir, keep=run.keep_checkpoints, report=say)
    state = resume(prepared, checkpointer, files)
    if state is not None:
        say(f"resuming at step {state.step} of {run.steps}")
    describe(workdir, prepared)

    state = initial_state(prepared) if state is None else state
    start = int(state.step)
    encode = make_encode(prepared)
    earlier = [row for row in metrics.read(workdir) if row["step"] <= start]

    def bound(field: str, evaluators: Mapping[str, Evaluator]) -> dict[str, Evaluate]:
        return {
            name: _bind(evaluator, data[f"{field}.{name}"], encode, earlier)
            for name, evaluator in evaluators.items()
        }

    with ProgressDisplay(start, run.steps, run.global_batch, console) as display:
        loop = Loop(
            steps=run.steps,
            step=compile_step(prepared),
            hyper=hyper(prepared),
            batches=lambda step: device_batches(prepared, step),
            evaluators=bound("evaluators", run.evaluators),
            final_evaluators=bound("final_evaluators", run.final_evaluators),
            cadence=Cadence(run.log_every, run.evaluate_every, run.checkpoint_every),
            checkpointer=checkpointer,
            files=files,
            writer=metrics.MetricsWriter(workdir, start),
            display=display,
        )
        try:
            state = loop.run(state)
        finally:
            checkpointer.close()
    rows = metrics.read(workdir)
    final = {k: v for row in rows for k, v in row.items() if k != "step"}
    plots = _plots(prepared, data, encode(_variables(state)), rows, say)
    return Finished(workdir, run.steps, final, plots)


def _speaker(console: Console) -> Say:
    """One way for everything that happens to reach a person, log records of vljax included."""

    def say(line: str) -> None:
        console.print(line, highlight=False, markup=False, soft_wrap=True)

    class Handler(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            say(f"{record.levelname.lower()}: {record.getMessage()}")

    logger = logging.getLogger("vljax")
    logger.handlers = [Handler()]
    logger.propagate = False
    return say


def _require_set(run: Run) -> str:
    """The workdir, once nothing that training needs is left open."""
    for path, value in [*config.paths(run), ("workdir", run.workdir or None)]:
        if value is None:
            raise UserError(f"{path}: unset; add --{path} PATH")
    assert run.workdir is not None
    return run.workdir


def _open(run: Run, path: str, evaluator: Evaluator) -> EvaluationSet:
    """The data of an evaluator, opened and known to be of use to it."""
    data = EvaluationSet(run.data, evaluator.source)
    try:
        data.open()
        evaluator.check(data)
    except UserError as error:
        raise UserError(f"{path}: {error}") from error
    return data


def _variables(state: TrainState) -> Variables:
    return Variables(state.params, state.state)


def _bind(
    evaluator: Evaluator, data: EvaluationSet, encode: BindEncode, earlier: Sequence[metrics.Row]
) -> Evaluate:
    """An evaluator as a function of the state; nothing new where an earlier attempt measured it."""
    prefix = f"{evaluator.prefix}/"
    done = {row["step"] for row in earlier if any(name.startswith(prefix) for name in row)}

    def evaluate(state: TrainState) -> dict[str, float]:
        if int(state.step) in done:
            return {}
        return evaluator(encode(_variables(state)), data)

    return evaluate


def _plots(
    prepared: Prepared,
    data: Mapping[str, EvaluationSet],
    encode: Encode,
    rows: list[metrics.Row],
    say: Say,
) -> list[Path]:
    """Curves, and a grid of queries for each final retrieval; local workdirs only."""
    run = prepared.run
    assert run.workdir is not None
    if not storage.is_local(run.workdir):
        say("note: plots are written to local workdirs only")
        return []
    folder = Path(run.workdir) / "plots"
    grids = {
        name: retrieval_grid(
            encode,
            data[f"final_evaluators.{name}"],
            evaluator.batch_size,
            similarity=evaluator.similarity,
        )
        for name, evaluator in run.final_evaluators.items()
        if isinstance(evaluator, Retrieval)
    }
    if jax.process_index() != 0:
        return []
    try:
        written = plot_run(rows, folder)
        for name, grid in grids.items():
            path = plot_retrieval_grid(grid, folder / f"{name}_examples.png")
            written += [] if path is None else [path]
    except OSError as error:
        say(f"warning: no plots in {folder}: {error.strerror}")
        return []
    return written
