"""From a recipe to a finished run: workdir, resume, loop, plots."""

from __future__ import annotations

import dataclasses
import functools
import json
import logging
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

import jax
from rich.console import Console

from vljax import config
from vljax.compilation_cache import keep_compiled
from vljax.config import UserError
from vljax.data.pipeline.evaluation_set import EvaluationSet
from vljax.data.records import error_for_field
from vljax.evaluation.evaluator import Encode, EvaluationData, Evaluator, SplitSet
from vljax.evaluation.plots import plot_run
from vljax.evaluation.retrieval import Retrieval
from vljax.evaluation.retrieval_grid import plot_retrieval_grid, retrieval_grid
from vljax.interop import pretrained
from vljax.models.assembly import Variables
from vljax.parallel.processes.agreement import barrier, broadcast
from vljax.parallel.processes.failure import report_failure
from vljax.parallel.processes.start import connect, is_first, process_index
from vljax.programs import StepPrograms, device_batches, hyper, initial_state, make_encode
from vljax.run import Prepared, Run, check_trains, prepare
from vljax.training import example_statistics, metrics
from vljax.training.checkpoint import storage
from vljax.training.checkpoint.checkpointer import Checkpointer
from vljax.training.example_statistics import ExampleStatistics
from vljax.training.interrupt import Interrupted
from vljax.training.loop import Cadence, Evaluate, Loop
from vljax.training.metrics import NullWriter
from vljax.training.progress import ProgressDisplay
from vljax.training.state import TrainState, evaluation_variables
from vljax.workdir import Files, checkpoint_files, describe, facts, refuse_another_recipe, resume

Say = Callable[[str], None]
BindEncode = Callable[[Variables], Encode]


_PLOT_SECONDS = 3600.0


@dataclass(frozen=True)
class Finished:
    """What a run left behind."""

    workdir: str
    step: int
    metrics: dict[str, float | None]
    """The last value of every metric; None where it was not finite."""
    plots: list[Path]


def train(run: Run, console: Console | None = None) -> Finished | None:
    """Trains, evaluates and saves; goes on from the newest checkpoint of the workdir.

    Where several processes train together, each calls it, before it asks JAX for devices; the first
    one writes and speaks for all.

    Returns:
      None in all processes but the first.

    Raises:
      UserError: for anything wrong with recipe, data or workdir, before any compile; and later if
        a checkpoint cannot be written.
      Interrupted: after SIGINT or SIGTERM, once everything is saved.
    """
    run = dataclasses.replace(run, workdir=str(storage.absolute(_require_set(run))))
    run = pretrained.pinned(run)
    connect(run.distributed, lambda: facts(run))
    try:
        finished = _train(run, console or Console(stderr=True))
    except Interrupted:
        raise
    except BaseException as error:
        report_failure(error)
        if isinstance(error, UserError) and not is_first():
            raise UserError(f"[process {process_index()}] {error}") from error
        raise
    return finished if is_first() else None


def _train(run: Run, console: Console) -> Finished:
    _show_log(console)
    if not is_first():
        console = Console(quiet=True)
    say = _speaker(console)
    keep_compiled()
    prepared = prepare(run)
    check_trains(prepared)
    run = prepared.run
    assert run.workdir is not None
    workdir = run.workdir
    for note in prepared.notes:
        say(f"note: {note}")

    files = checkpoint_files(prepared)
    data = {path: _open(prepared, path, e) for path, e in run.all_evaluators.items()}
    if warning := storage.check_space(workdir, storage.required_bytes(prepared.shapes)):
        say(f"warning: {warning}")
    refuse_another_recipe(workdir, run)
    checkpointer = Checkpointer(workdir, keep=run.keep_checkpoints, report=say)
    state, step = _begin(prepared, checkpointer, files, say)
    start = int(state.step)
    encode = make_encode(prepared)
    measured = _measured(run, start)
    counts = checkpointer.files(start) if start and is_first() else {}
    saved_counts = counts.get(example_statistics.FILE)
    statistics = ExampleStatistics(workdir, start, run.data.max_rejected_share, saved_counts)

    def bound(field: str, evaluators: Mapping[str, Evaluator]) -> dict[str, Evaluate]:
        return {
            name: _bind(evaluator, data[path], encode, measured[path])
            for name, evaluator in evaluators.items()
            for path in [f"{field}.{name}"]
        }

    with ProgressDisplay(start, run.steps, run.global_batch, console) as display:
        loop = Loop(
            steps=run.steps,
            step=functools.partial(step, display.activity),
            hyper=hyper(prepared),
            batches=lambda step: device_batches(prepared, step, statistics.record),
            statistics=statistics,
            evaluators=bound("evaluators", run.evaluators),
            final_evaluators=bound("final_evaluators", run.final_evaluators),
            cadence=Cadence(run.log_every, run.evaluate_every, run.checkpoint_every),
            max_skipped=run.max_skipped_steps,
            checkpointer=checkpointer,
            files=files,
            writer=metrics.MetricsWriter(workdir, start) if is_first() else NullWriter(),
            display=display,
        )
        barrier("the first step")
        state = _loop(loop, state)
    rows = metrics.read(workdir)
    final = {k: v for row in rows for k, v in row.items() if k != "step"}
    plots = _plots(prepared, data, encode(evaluation_variables(state)), rows, say)
    barrier("the end", _PLOT_SECONDS)  # until then, a failure of one ends all
    return Finished(workdir, run.steps, final, plots)


def _begin(
    prepared: Prepared, checkpointer: Checkpointer, files: Files, say: Say
) -> tuple[TrainState, StepPrograms]:
    """The state to go on from, or a new one; the step is compiled beside that."""
    run = prepared.run
    assert run.workdir is not None
    state = resume(prepared, checkpointer, files)
    if state is not None:
        say(f"resuming at step {state.step} of {run.steps}")
    given = pretrained.load(prepared) if state is None else None
    describe(run.workdir, prepared)
    start = 0 if state is None else int(state.step)
    step = StepPrograms(prepared)
    if start < run.steps:
        step.begin(start)
    return initial_state(prepared, given) if state is None else state, step


def _loop(loop: Loop, state: TrainState) -> TrainState:
    """What was measured and saved is complete on disk, however the loop ends."""
    try:
        return loop.run(state)
    finally:
        try:
            loop.writer.flush()
        finally:
            loop.checkpointer.close()


def _speaker(console: Console) -> Say:
    def say(line: str) -> None:
        console.print(line, highlight=False, markup=False, soft_wrap=True)

    return say


def _show_log(console: Console) -> None:
    """Log records of vljax reach a person like everything else, and say where they come from."""
    say = _speaker(console)
    origin = "" if is_first() else f"[process {process_index()}] "

    class Handler(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            say(f"{record.levelname.lower()}: {origin}{record.getMessage()}")

    logger = logging.getLogger("vljax")
    logger.handlers = [Handler()]
    logger.propagate = False


def _require_set(run: Run) -> str:
    """The workdir, once nothing that training needs is left open."""
    for path, value in [*config.paths(run), ("workdir", run.workdir or None)]:
        if value is None:
            raise UserError(f"{path}: unset; add --{path} PATH")
    assert run.workdir is not None
    return run.workdir


def _open(prepared: Prepared, path: str, evaluator: Evaluator) -> EvaluationData:
    """The data of an evaluator, opened and known to be of use to it."""
    data = EvaluationSet(prepared.run.data, evaluator.source)
    try:
        data.open()
        evaluator.check(data)
    except UserError as error:
        found = error_for_field(error, f"{path}.source")
        named = str(found).startswith(path)
        raise found if named else UserError(f"{path}: {found}") from error
    return data if jax.process_count() == 1 else SplitSet(data, prepared.mesh)


def _measured(run: Run, start: int) -> dict[str, list[int]]:
    """By evaluator, the steps up to `start` at which earlier attempts ran it."""
    assert run.workdir is not None
    workdir = run.workdir

    def look() -> str:
        rows = [row for row in metrics.read(workdir) if row["step"] <= start]
        steps = {
            path: [row["step"] for row in rows if any(n.startswith(f"{e.prefix}/") for n in row)]
            for path, e in run.all_evaluators.items()
        }
        return json.dumps(steps)

    found: dict[str, list[int]] = json.loads(broadcast("measured", look))
    return found


def _bind(
    evaluator: Evaluator, data: EvaluationData, encode: BindEncode, done: Collection[int]
) -> Evaluate:
    """An evaluator as a function of the state; nothing new where an earlier attempt measured it."""

    def evaluate(state: TrainState) -> dict[str, float]:
        if int(state.step) in done:
            return {}
        return evaluator(encode(evaluation_variables(state)), data)

    return evaluate


def _plots(
    prepared: Prepared,
    data: Mapping[str, EvaluationData],
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
    if not is_first():
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
