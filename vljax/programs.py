"""The compiled programs of a prepared run: initial state, training step, predictor; and inputs.

Each is one `jax.jit` with explicit shardings. `trace_step` needs no arrays, so `vljax compile` uses
it for machines that are not present.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool

from vljax.data.pipeline.batches import Batches, BatchStatistics
from vljax.data.pipeline.pipeline import train_batches
from vljax.evaluation.predictor import Forward, ModelPredictor
from vljax.models.assembly import Variables, example_batch
from vljax.models.parameters import merge, select_like
from vljax.optim import Hyper, Optimizer
from vljax.parallel import rows
from vljax.parallel.rules import batch_sharding, replicated
from vljax.run import Prepared, Run
from vljax.training.state import TrainState, create
from vljax.training.step import make_step

Record = Callable[[BatchStatistics, Bool[np.ndarray, " rows"]], None]

# The initialisation runs once, so it need not be fast. LLVM takes half the time at this level, and
# the initial values are the same.
_FAST_COMPILE: dict[str, bool | int | float | str] = {"xla_backend_optimization_level": 1}


def _shardings(tree: Any) -> Any:
    return jax.tree.map(lambda leaf: leaf.sharding, tree)


def initial_state(prepared: Prepared, pretrained: Variables | None = None) -> TrainState:
    """The state before the first step, created with its shardings.

    Args:
      prepared: the run.
      pretrained: variables on the host that replace random initial values; a subtree.
    """
    task = prepared.task
    shapes = example_batch(prepared.run.model)
    given = _placed(pretrained or Variables({}, {}), prepared.shapes)

    def init(seed: jax.Array, given: Variables) -> TrainState:
        batch = {name: jnp.zeros(spec.shape, spec.dtype) for name, spec in shapes.items()}
        made = task.model.init(jax.random.key(seed), batch)
        return create(Variables(*map(merge, made, given)), task)

    options = _FAST_COMPILE if prepared.platform == "cpu" else None
    compiled = jax.jit(init, out_shardings=_shardings(prepared.shapes), compiler_options=options)
    state: TrainState = compiled(jnp.uint32(prepared.run.seed), given)
    return state


def _placed(host: Variables, shapes: TrainState) -> Variables:
    """Puts host arrays on the devices; each process, which has the whole, places its own part."""

    def place(array: np.ndarray, like: jax.ShapeDtypeStruct) -> jax.Array:
        return jax.make_array_from_callback(like.shape, like.sharding, lambda i: array[i])

    wanted = [select_like(getattr(shapes, kind), getattr(host, kind)) for kind in host._fields]
    return Variables(*(jax.tree.map(place, *pair) for pair in zip(host, wanted, strict=True)))


def compile_step(prepared: Prepared, waiting: frozenset[str] = frozenset()) -> Any:
    """The jitted step, with explicit shardings and a donated state; `waiting` as in `make_step`."""
    mesh, state = prepared.mesh, _shardings(prepared.shapes)
    return jax.jit(
        make_step(prepared.task, waiting),
        in_shardings=(state, batch_sharding(mesh), replicated(mesh)),
        out_shardings=(state, replicated(mesh)),
        donate_argnums=0,
    )


def trace_step(
    prepared: Prepared, length: int | None = None, waiting: frozenset[str] = frozenset()
) -> Any:
    """The step, traced for the batch shapes of the run; `.lower().compile()` needs no arrays.

    Args:
      prepared: the run.
      length: number of patches per image, for images of variable size; the longest by default.
      waiting: groups that are not yet trained, whose gradients are left out; see `make_step`.
    """
    run = prepared.run
    batch = {
        name: jax.ShapeDtypeStruct(shape, dtype)
        for name, (shape, dtype) in run.data.batch_spec(run.global_batch, length).items()
    }
    scalars = jax.eval_shape(lambda: _hyper(run))
    return compile_step(prepared, waiting).trace(prepared.shapes, batch, scalars)


class _Kind(NamedTuple):
    """What a program of the step is compiled for."""

    length: int | None
    """Number of patches per image, if it varies."""
    waiting: frozenset[str]
    """Groups that are not yet trained (`Group.start`)."""


class StepPrograms:
    """The training step, compiled once for each length of patch sequences and set of groups.

    `begin` compiles ahead in a thread, and the first call waits for it. Programs for other lengths
    are compiled when their first batch arrives; that for the groups that start next, from the first
    step on. JAX traces one program at a time, but compiles several in parallel.
    """

    def __init__(self, prepared: Prepared, step: int) -> None:
        """The programs for a run that goes on at a step."""
        self._prepared, self._first, self._step = prepared, step, step
        self._thread = ThreadPoolExecutor(1)
        self._programs: dict[_Kind, Future[Any]] = {}

    def begin(self) -> None:
        """Starts to compile the program for the next batch, in a thread."""
        run = self._prepared.run
        self._begin(self._kind(run.data.length_at(run.seed, self._step)))

    def _kind(self, length: int | None) -> _Kind:
        return _Kind(length, self._prepared.task.waiting(self._step))

    def _begin(self, kind: _Kind) -> None:
        def compiled() -> Any:
            return trace_step(self._prepared, *kind).lower().compile()

        # Compiled ahead of time: a batch of another shape is an error, not a silent compile.
        self._programs[kind] = self._thread.submit(compiled)

    def __call__(self, activity: Callable[[str], None], *inputs: Any) -> Any:
        """The state and metrics after one step; each call is the next step of the run.

        Args:
          activity: called with a description before a program is compiled, and with "" after it.
          inputs: state, batch and hyper.
        """
        kind = self._kind(self._length(inputs[1]))
        if kind not in self._programs:
            self._begin(kind)
        # The display knows that the first call compiles.
        if self._step > self._first and not self._programs[kind].done():
            for_length = "" if kind.length is None else f" for images of {kind.length} patches"
            activity(f"compiling the step{for_length}")
            self._programs[kind].result()
            activity("")
        after = self._programs[kind].result()(*inputs)
        self._step += 1
        if kind.waiting and (following := self._next(kind)) not in self._programs:
            self._begin(following)
        return after

    def _next(self, kind: _Kind) -> _Kind:
        """The program that follows when the first of the waiting groups starts."""
        task = self._prepared.task
        return kind._replace(waiting=task.waiting(min(task.groups[g].start for g in kind.waiting)))

    def _length(self, batch: Mapping[str, jax.Array]) -> int | None:
        lengths = self._prepared.run.data.image_lengths
        if not lengths:
            return None
        length: int = batch["image_mask"].shape[1]
        if length not in lengths:
            raise ValueError(
                f"batch of {length} patches per image, but the recipe has {list(lengths)}"
            )
        return length


def hyper(prepared: Prepared) -> Hyper:
    """The traced inputs of the step, on the devices."""
    placed: Hyper = jax.device_put(_hyper(prepared.run), replicated(prepared.mesh))
    return placed


def _hyper(run: Run) -> Hyper:
    real = jnp.result_type(float)  # float32, unless JAX has float64 enabled

    def rates(optim: Optimizer) -> tuple[Any, Any]:
        return np.asarray(optim.learning_rate, real), np.asarray(optim.weight_decay, real)

    own = {name: rates(group.optim) for name, group in run.groups.items() if group.optim}
    return Hyper(*rates(run.optim), jnp.uint32(run.seed), own or None)


def _ignore(batch: BatchStatistics, counted: Bool[np.ndarray, " rows"]) -> None:
    """Keeps no statistics."""


def device_batches(
    prepared: Prepared, step: int, record: Record = _ignore
) -> Iterator[dict[str, jax.Array]]:
    """Training batches from a step on, sharded over the mesh; each process reads its own rows.

    Args:
      prepared: the run.
      step: the number of the first batch.
      record: called with the statistics of each batch, and the rows that this process counts.
    """
    run = prepared.run
    sharding = batch_sharding(prepared.mesh)
    counted = rows.counted_rows(sharding, run.global_batch)

    def open_part(part: int, count: int) -> Batches:
        own = np.split(counted, count)[part]
        return train_batches(
            run.data,
            seed=run.seed,
            global_batch=run.global_batch,
            start_step=step,
            process_index=part,
            process_count=count,
            on_batch=lambda batch: record(batch, own),
        )

    for own in rows.read_parts(open_part, rows.local_parts(sharding, run.global_batch)):
        yield rows.global_arrays(own, sharding, run.global_batch)


def make_predictor(prepared: Prepared) -> Callable[[Variables], ModelPredictor]:
    """A function from variables to their predictor; all share the compiled programs."""
    shapes = prepared.shapes
    variables_at = Variables(_shardings(shapes.params), _shardings(shapes.state))
    return Forward(prepared.model, prepared.run.model, prepared.mesh, variables_at).bind
