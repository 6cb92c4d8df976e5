"""From a recipe to a finished run: workdir, resume, loop, plots."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from rich.console import Console

from vljax import config
from vljax.config import UserError
from vljax.data.evaluation_set import EvaluationSet
from vljax.data.pipeline import plan, train_batches
from vljax.data.preprocessing import preprocessing
from vljax.evaluation.evaluator import Encode, Evaluator
from vljax.evaluation.plots import plot_run
from vljax.evaluation.retrieval import Retrieval
from vljax.evaluation.retrieval_grid import plot_retrieval_grid, retrieval_grid
from vljax.models.assembly import Variables, example_batch
from vljax.models.vit import ViT
from vljax.parallel.rules import batch_sharding, replicated
from vljax.run import Prepared, Run, load_tokenizer, prepare
from vljax.training import metrics, storage
from vljax.training.checkpoint import Checkpointer
from vljax.training.loop import Cadence, Loop
from vljax.training.optim import Hyper
from vljax.training.progress import ProgressDisplay
from vljax.training.state import TrainState, create
from vljax.training.step import make_step
from vljax.workdir import claim

Files = Callable[[int], dict[str, bytes]]


@dataclass(frozen=True)
class Finished:
    """What a run left behind."""

    workdir: str
    step: int
    metrics: dict[str, float]
    """The last value of every metric."""
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
    prepared = prepare(run)
    run = prepared.run
    workdir = _require_set(run)
    for note in prepared.notes:
        say(f"note: {note}")
    files = _checkpoint_files(run)
    if warning := storage.check_space(workdir, storage.required_bytes(prepared.shapes)):
        say(f"warning: {warning}")
    evaluators = [_evaluators(prepared, g) for g in (run.evaluators, run.final_evaluators)]
    checkpointer = Checkpointer(workdir, keep=run.keep_checkpoints, report=say)
    claim(workdir, prepared)
    state = _resume(prepared, checkpointer, files, say) or initial_state(prepared)
    with ProgressDisplay(int(state.step), run.steps, run.global_batch, console) as display:
        loop = Loop(
            steps=run.steps,
            step=compile_step(prepared),
            hyper=_hyper(prepared),
            batches=lambda step: _device_batches(prepared, step),
            evaluators=evaluators[0],
            final_evaluators=evaluators[1],
            cadence=Cadence(run.log_every, run.evaluate_every, run.checkpoint_every),
            checkpointer=checkpointer,
            files=files,
            writer=metrics.MetricsWriter(workdir, int(state.step)),
            display=display,
        )
        try:
            state = loop.run(state)
        finally:
            checkpointer.close()
    rows = metrics.read(workdir)
    final = {k: v for row in rows for k, v in row.items() if k != "step"}
    return Finished(workdir, run.steps, final, _plots(prepared, state, rows, workdir))


def compile_step(prepared: Prepared) -> Any:
    """The jitted step, with explicit shardings and a donated state."""
    mesh = prepared.mesh
    state = jax.tree.map(lambda leaf: leaf.sharding, prepared.shapes)
    return jax.jit(
        make_step(prepared.task),
        in_shardings=(state, batch_sharding(mesh), replicated(mesh)),
        out_shardings=(state, replicated(mesh)),
        donate_argnums=0,
    )


def _speaker(console: Console) -> Callable[[str], None]:
    """One way for everything that happens to reach a person, log records of libraries included."""

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
    for path, value in [*config.paths(run), ("workdir", run.workdir)]:
        if value is None:
            raise UserError(f"{path}: unset; add --{path} PATH")
    assert run.workdir is not None
    return run.workdir


def _checkpoint_files(run: Run) -> Files:
    """What stands beside the arrays in the checkpoint of a step."""
    tokenizer = load_tokenizer(run)
    normalisation = {
        name: {"mean": encoder.pixel_mean, "std": encoder.pixel_std}
        for name, encoder in run.model.encoders.items()
        if isinstance(encoder, ViT)
    }
    fixed = {
        "recipe.json": config.to_json(run).encode(),
        "preprocess.json": _json({**preprocessing(run.data), "normalisation": normalisation}),
    }
    if tokenizer is not None:
        fixed |= {f"tokenizer/{name}": content for name, content in tokenizer.files().items()}
    stream = plan(run.data, seed=run.seed, global_batch=run.global_batch)
    return lambda step: {**fixed, "data.json": _json({"step": step, "plan": stream})}


def _json(data: Any) -> bytes:
    return (json.dumps(data, indent=2) + "\n").encode()


def initial_state(prepared: Prepared) -> TrainState:
    """The state before the first step, made where it belongs."""
    task, config_ = prepared.task, prepared.run.model
    shapes = example_batch(config_)

    def init(seed: jax.Array) -> TrainState:
        batch = {name: jnp.zeros(spec.shape, spec.dtype) for name, spec in shapes.items()}
        variables = task.model.init(jax.random.key(seed), batch)
        return create(variables, task.optimizer.transformation(), task.groups)

    placed = jax.tree.map(lambda leaf: leaf.sharding, prepared.shapes)
    return jax.jit(init, out_shardings=placed)(jnp.uint32(prepared.run.seed))


def _resume(
    prepared: Prepared, checkpointer: Checkpointer, files: Files, say: Callable[[str], None]
) -> TrainState | None:
    """The state of the newest intact checkpoint; None where the workdir holds none.

    Raises:
      UserError: if the data are not those that the checkpoint was trained on.
    """
    restored = checkpointer.restore(prepared.shapes)
    if restored is None:
        return None
    position = json.loads(checkpointer.files(restored.step)["data.json"])
    if position != json.loads(files(restored.step)["data.json"]):
        raise UserError(
            f"the data have changed since step {restored.step} of {prepared.run.workdir}: "
            "bring them back, or use another --workdir"
        )
    say(f"resuming at step {restored.step} of {prepared.run.steps}")
    state: TrainState = restored.state
    return state


def _hyper(prepared: Prepared) -> Hyper:
    run = prepared.run
    values = (
        np.float32(run.optim.learning_rate),
        np.float32(run.optim.weight_decay),
        np.uint32(run.seed),
    )
    return Hyper(*jax.device_put(values, replicated(prepared.mesh)))


def _device_batches(prepared: Prepared, step: int) -> Iterator[dict[str, jax.Array]]:
    """Batches from a step on, split over the mesh; this process reads its own rows."""
    run = prepared.run
    sharding = batch_sharding(prepared.mesh)
    batches = train_batches(
        run.data,
        seed=run.seed,
        global_batch=run.global_batch,
        start_step=step,
        process_index=jax.process_index(),
        process_count=jax.process_count(),
    )
    try:
        for batch in batches:
            yield {
                name: jax.make_array_from_process_local_data(sharding, rows)
                for name, rows in batch.items()
            }
    finally:
        batches.close()


def _evaluators(
    prepared: Prepared, evaluators: Mapping[str, Evaluator]
) -> dict[str, Callable[[TrainState], dict[str, float]]]:
    """Evaluators as functions of the state; their data are opened here, before any compile."""
    encode = make_encode(prepared)

    def bind(evaluator: Evaluator) -> Callable[[TrainState], dict[str, float]]:
        data = EvaluationSet(prepared.run.data, evaluator.source)
        return lambda state: evaluator(encode(state), data)

    return {name: bind(evaluator) for name, evaluator in evaluators.items()}


def make_encode(prepared: Prepared) -> Callable[[TrainState], Encode]:
    """From a state to a function of host batches that returns their embeddings."""
    mesh, model = prepared.mesh, prepared.model
    inputs = example_batch(prepared.run.model)

    @jax.jit
    def forward(variables: Variables, batch: dict[str, jax.Array]) -> dict[str, jax.Array]:
        outputs, _ = model.apply(variables, batch, None, train=False)
        embeddings = {k: v for k, v in outputs.items() if k.endswith("/embedding")}
        return jax.lax.with_sharding_constraint(embeddings, replicated(mesh))

    def bind(state: TrainState) -> Encode:
        variables = Variables(state.params, state.state)

        def encode(batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
            known = {name: rows for name, rows in batch.items() if name in inputs}
            outputs = forward(variables, jax.device_put(known, batch_sharding(mesh)))
            return {name: np.asarray(rows) for name, rows in outputs.items()}

        return encode

    return bind


def _plots(
    prepared: Prepared, state: TrainState, rows: list[metrics.Row], workdir: str
) -> list[Path]:
    """Curves, and a grid of queries for each final retrieval; not written to remote workdirs."""
    if not storage.is_local(workdir) or jax.process_index() != 0:
        return []
    folder = Path(workdir) / "plots"
    written = plot_run(rows, folder)
    encode = make_encode(prepared)(state)
    for name, evaluator in prepared.run.final_evaluators.items():
        if isinstance(evaluator, Retrieval):
            data = EvaluationSet(prepared.run.data, evaluator.source)
            grid = retrieval_grid(
                encode, data, evaluator.batch_size, similarity=evaluator.similarity
            )
            path = plot_retrieval_grid(grid, folder / f"{name}_examples.png")
            written += [] if path is None else [path]
    return written
