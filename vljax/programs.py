"""The compiled programs of a prepared run: first state, step, encoder; and what they are fed."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool

from vljax.data.pipeline.batches import Account, Batches
from vljax.data.pipeline.pipeline import train_batches
from vljax.evaluation.evaluator import Batch as EvaluationBatch
from vljax.evaluation.evaluator import Encode
from vljax.models.assembly import Variables, example_batch
from vljax.models.layout import merge, select_like
from vljax.optim import Hyper
from vljax.parallel import rows
from vljax.parallel.rules import batch_sharding, replicated
from vljax.run import Prepared
from vljax.training.state import TrainState, create
from vljax.training.step import make_step

Record = Callable[[Account, Bool[np.ndarray, " rows"]], None]

# A program that runs once need not be fast. LLVM takes half the time, and the numbers are the same.
_QUICK: dict[str, bool | int | float | str] = {"xla_backend_optimization_level": 1}


def _shardings(tree: Any) -> Any:
    return jax.tree.map(lambda leaf: leaf.sharding, tree)


def initial_state(prepared: Prepared, pretrained: Variables | None = None) -> TrainState:
    """The state before the first step, made where it belongs.

    Args:
      prepared: the run.
      pretrained: variables, on the host, that take the place of random ones.
    """
    task = prepared.task
    shapes = example_batch(prepared.run.model)
    given = _placed(pretrained or Variables({}, {}), prepared.shapes)

    def init(seed: jax.Array, given: Variables) -> TrainState:
        batch = {name: jnp.zeros(spec.shape, spec.dtype) for name, spec in shapes.items()}
        made = task.model.init(jax.random.key(seed), batch)
        return create(Variables(*map(merge, made, given)), task)

    options = _QUICK if prepared.platform == "cpu" else None
    compiled = jax.jit(init, out_shardings=_shardings(prepared.shapes), compiler_options=options)
    state: TrainState = compiled(jnp.uint32(prepared.run.seed), given)
    return state


def _placed(host: Variables, shapes: TrainState) -> Variables:
    """Arrays of the host on the devices, each process its part; the same in all of them."""

    def place(array: np.ndarray, like: jax.ShapeDtypeStruct) -> jax.Array:
        return jax.make_array_from_callback(like.shape, like.sharding, lambda i: array[i])

    wanted = [select_like(getattr(shapes, kind), getattr(host, kind)) for kind in host._fields]
    return Variables(*(jax.tree.map(place, *pair) for pair in zip(host, wanted, strict=True)))


def compile_step(prepared: Prepared) -> Any:
    """The jitted step, with explicit shardings and a donated state."""
    mesh, state = prepared.mesh, _shardings(prepared.shapes)
    return jax.jit(
        make_step(prepared.task),
        in_shardings=(state, batch_sharding(mesh), replicated(mesh)),
        out_shardings=(state, replicated(mesh)),
        donate_argnums=0,
    )


def trace_step(prepared: Prepared, length: int | None = None) -> Any:
    """The step, traced for the batches of the run; `lower().compile()` of it needs no arrays.

    Args:
      prepared: the run.
      length: of the sequences of patches; by default the longest.
    """
    run = prepared.run
    batch = {
        name: jax.ShapeDtypeStruct(shape, dtype)
        for name, (shape, dtype) in run.data.batch_spec(run.global_batch, length).items()
    }
    real = jnp.result_type(float)  # float32, unless JAX has float64 enabled
    scalars: list[Any] = [jax.ShapeDtypeStruct((), d) for d in (real, real, np.uint32)]
    return compile_step(prepared).trace(prepared.shapes, batch, Hyper(*scalars))


class StepPrograms:
    """The step, compiled once for each length that sequences of patches have.

    What is begun ahead is compiled in a thread, and the first call waits for it; other programs are
    compiled when their first batch comes. Tracing takes turns with what else is traced, but
    compilers work side by side.
    """

    def __init__(self, prepared: Prepared) -> None:
        self._prepared = prepared
        self._thread = ThreadPoolExecutor(1)
        self._programs: dict[int | None, Future[Any]] = {}

    def begin(self, step: int) -> None:
        """Compiles the program for the batch of a step from now on."""
        self._begin(self._prepared.run.data.length_at(self._prepared.run.seed, step))

    def _begin(self, length: int | None) -> None:
        def compiled() -> Any:
            return trace_step(self._prepared, length).lower().compile()

        # A program takes batches of its own shape only: none is ever compiled unasked.
        self._programs[length] = self._thread.submit(compiled)

    def __call__(self, activity: Callable[[str], None], *inputs: Any) -> Any:
        """The next step.

        Args:
          activity: told what the time is spent on where a program is compiled, "" afterwards.
          inputs: state, batch and hyper.
        """
        length = self._length(inputs[1])
        if length not in self._programs:
            self._begin(length)
            activity(f"compiling the step for images of {length} patches")
            self._programs[length].result()
            activity("")
        return self._programs[length].result()(*inputs)

    def _length(self, batch: Mapping[str, jax.Array]) -> int | None:
        lengths = self._prepared.run.data.image_lengths
        if not lengths:
            return None
        length: int = batch["image_mask"].shape[1]
        if length not in lengths:
            raise ValueError(f"a batch of {length} patches, where lengths are {list(lengths)}")
        return length


def hyper(prepared: Prepared) -> Hyper:
    """The traced inputs of the step, on the devices."""
    run = prepared.run
    real = jnp.result_type(float)  # float32, unless JAX has float64 enabled
    values = (
        np.asarray(run.optim.learning_rate, real),
        np.asarray(run.optim.weight_decay, real),
        np.uint32(run.seed),
    )
    return Hyper(*jax.device_put(values, replicated(prepared.mesh)))


def _ignore(account: Account, counted: Bool[np.ndarray, " rows"]) -> None:
    """Keeps no statistics."""


def device_batches(
    prepared: Prepared, step: int, record: Record = _ignore
) -> Iterator[dict[str, jax.Array]]:
    """Training batches from a step on, split over the mesh; a process reads its devices' rows.

    Args:
      prepared: the run.
      step: the number of the first batch.
      record: called with what became of the examples, and which of them this process counts.
    """
    run = prepared.run
    sharding = batch_sharding(prepared.mesh)
    counted = rows.first_held(sharding, run.global_batch)

    def open_part(part: int, count: int) -> Batches:
        own = np.split(counted, count)[part]
        return train_batches(
            run.data,
            seed=run.seed,
            global_batch=run.global_batch,
            start_step=step,
            process_index=part,
            process_count=count,
            report=lambda account: record(account, own),
        )

    for own in rows.read(open_part, rows.own_parts(sharding, run.global_batch)):
        yield rows.place(own, sharding, run.global_batch)


def make_encode(prepared: Prepared) -> Callable[[Variables], Encode]:
    """From variables to a function of batches that returns their embeddings on the host.

    Batches are whole and the same in all processes, or already on the devices. It compiles once for
    each combination of modalities and batch size.
    """
    mesh, model = prepared.mesh, prepared.model
    inputs = example_batch(prepared.run.model)

    def forward(variables: Variables, batch: dict[str, jax.Array]) -> dict[str, jax.Array]:
        outputs, _ = model.apply(variables, batch, None, train=False)
        return {name: array for name, array in outputs.items() if name.endswith("/embedding")}

    variables_at = Variables(*map(_shardings, (prepared.shapes.params, prepared.shapes.state)))
    compiled = jax.jit(
        forward,
        in_shardings=(variables_at, batch_sharding(mesh)),
        out_shardings=replicated(mesh),
    )

    def bind(variables: Variables) -> Encode:
        def encode(batch: EvaluationBatch) -> dict[str, np.ndarray]:
            known = {
                name: rows.place_whole(array, batch_sharding(mesh))
                for name, array in batch.items()
                if name in inputs
            }
            outputs = compiled(variables, known)
            return {name: np.asarray(array) for name, array in outputs.items()}

        return encode

    return bind
