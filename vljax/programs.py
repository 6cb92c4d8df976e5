"""The compiled programs of a prepared run: first state, step, encoder; and what they are fed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from vljax.data.pipeline import train_batches
from vljax.evaluation.evaluator import Encode
from vljax.models.assembly import Variables, example_batch
from vljax.parallel.rules import batch_sharding, replicated
from vljax.run import Prepared
from vljax.training.optim import Hyper
from vljax.training.state import TrainState, create
from vljax.training.step import make_step


def _shardings(tree: Any) -> Any:
    return jax.tree.map(lambda leaf: leaf.sharding, tree)


def initial_state(prepared: Prepared) -> TrainState:
    """The state before the first step, made where it belongs."""
    task = prepared.task
    shapes = example_batch(prepared.run.model)

    def init(seed: jax.Array) -> TrainState:
        batch = {name: jnp.zeros(spec.shape, spec.dtype) for name, spec in shapes.items()}
        variables = task.model.init(jax.random.key(seed), batch)
        return create(variables, task.optimizer.transformation(), task.groups)

    compiled = jax.jit(init, out_shardings=_shardings(prepared.shapes))
    state: TrainState = compiled(jnp.uint32(prepared.run.seed))
    return state


def compile_step(prepared: Prepared) -> Any:
    """The jitted step, with explicit shardings and a donated state."""
    mesh, state = prepared.mesh, _shardings(prepared.shapes)
    return jax.jit(
        make_step(prepared.task),
        in_shardings=(state, batch_sharding(mesh), replicated(mesh)),
        out_shardings=(state, replicated(mesh)),
        donate_argnums=0,
    )


def hyper(prepared: Prepared) -> Hyper:
    """The traced inputs of the step, on the devices."""
    run = prepared.run
    values = (
        np.float32(run.optim.learning_rate),
        np.float32(run.optim.weight_decay),
        np.uint32(run.seed),
    )
    return Hyper(*jax.device_put(values, replicated(prepared.mesh)))


def device_batches(prepared: Prepared, step: int) -> Iterator[dict[str, jax.Array]]:
    """Training batches from a step on, split over the mesh; this process reads its own rows."""
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


def make_encode(prepared: Prepared) -> Callable[[Variables], Encode]:
    """From variables to a function of host batches that returns their embeddings.

    It compiles once for each combination of modalities and batch size.
    """
    mesh, model = prepared.mesh, prepared.model
    inputs = example_batch(prepared.run.model)

    def forward(variables: Variables, batch: dict[str, jax.Array]) -> dict[str, jax.Array]:
        outputs, _ = model.apply(variables, batch, None, train=False)
        return {name: rows for name, rows in outputs.items() if name.endswith("/embedding")}

    variables_at = Variables(*map(_shardings, (prepared.shapes.params, prepared.shapes.state)))
    compiled = jax.jit(
        forward,
        in_shardings=(variables_at, batch_sharding(mesh)),
        out_shardings=replicated(mesh),
    )

    def bind(variables: Variables) -> Encode:
        def encode(batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
            known = {name: rows for name, rows in batch.items() if name in inputs}
            outputs = compiled(variables, jax.device_put(known, batch_sharding(mesh)))
            return {name: np.asarray(rows) for name, rows in outputs.items()}

        return encode

    return bind
