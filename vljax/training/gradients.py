"""The loss of a group of parameters and its gradient, from a whole batch or from parts of it."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from einops import rearrange
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Float

from vljax.models.assembly import Variables
from vljax.models.parameters import merge, select_like
from vljax.objectives.objective import Batch, Context, Objective, view_of
from vljax.parallel.rules import ACTIVATIONS
from vljax.training.state import Task, TrainState

Metrics = dict[str, Array]
Tree = dict[str, Any]
Forward = Callable[[str, Batch], dict[str, Array]]


class Gradients(NamedTuple):
    """What a batch says about one group of parameters."""

    loss: Float[Array, ""]
    gradients: Tree
    metrics: Metrics
    state: Tree
    """The part of the model's state that changed."""


class _Aux(NamedTuple):
    metrics: Metrics
    state: Tree


def gradients_of(
    task: Task, pattern: str, state: TrainState, batch: Batch, key: Array
) -> Gradients:
    """The weighted loss of the objectives that train a pattern, with its gradient."""
    compute = _at_once if task.accumulate == 1 else _in_parts
    return compute(task, pattern, state, batch, key)


def _at_once(task: Task, pattern: str, state: TrainState, batch: Batch, key: Array) -> Gradients:
    def loss(trained: Tree) -> tuple[Array, _Aux]:
        changed: Tree = {}

        def forward(view: str, batch: Batch) -> dict[str, Array]:
            outputs, new = _apply(task, state, trained, key, view, batch)
            changed.update(new)
            return outputs

        total, aux = _loss(task, pattern, Context(forward, batch, task.mesh), batch, key)
        return total, aux._replace(state={**changed, **aux.state})

    trained = task.trained(pattern, state.params)
    (value, aux), gradients = jax.value_and_grad(loss, has_aux=True)(trained)
    return Gradients(value, _placed(task, gradients), *aux)


def _in_parts(task: Task, pattern: str, state: TrainState, batch: Batch, key: Array) -> Gradients:
    """Exact for losses that compare examples: GradCache (Gao et al. 2021, arXiv 2101.06983).

    A first pass over the parts keeps only the outputs that objectives read. The loss of the whole
    batch gives the slope of each output, and a second pass carries them back to the parameters.
    Dropout is keyed by the place in the batch, so that both passes, and a batch that is computed at
    once, draw the same masks.
    """
    trained = task.trained(pattern, state.params)
    example_index = jnp.arange(batch["valid"].shape[0])
    parts = split({**batch, "example_index": example_index}, task.accumulate, task.mesh)
    views = _views_read(task, pattern)

    def outputs_of(trained: Tree, part: Batch) -> dict[str, dict[str, Array]]:
        outputs = {}
        for view, names in views.items():
            made, _ = _apply(task, state, trained, key, view, view_of(part, view))
            outputs[view] = {name: made[name] for name in names}
        return outputs

    def loss(outputs: dict[str, dict[str, Array]]) -> tuple[Array, _Aux]:
        ctx = Context(lambda view, _: outputs[view], batch, task.mesh)
        return _loss(task, pattern, ctx, batch, key)

    outputs = join(jax.lax.map(lambda part: outputs_of(trained, part), parts), task.mesh)
    (value, aux), slopes = jax.value_and_grad(loss, has_aux=True)(outputs)

    def accumulate(total: Tree, inputs: tuple[Batch, Any]) -> tuple[Tree, None]:
        part, slope = inputs
        _, pull = jax.vjp(lambda trained: outputs_of(trained, part), trained)
        return _placed(task, jax.tree.map(jnp.add, total, pull(slope)[0])), None

    zeros = _placed(task, jax.tree.map(jnp.zeros_like, trained))
    slopes = split(slopes, task.accumulate, task.mesh)
    gradients, _ = jax.lax.scan(accumulate, zeros, (parts, slopes))
    return Gradients(value, gradients, *aux)


def _members(task: Task, pattern: str) -> dict[int, tuple[str, Objective]]:
    """The objectives of a group, by their number in the recipe."""
    named = enumerate(task.objectives.items(), start=1)
    return {i: (name, objective) for i, (name, objective) in named if objective.trains == pattern}


def _views_read(task: Task, pattern: str) -> dict[str, tuple[str, ...]]:
    """The outputs that the objectives of a group read of each view."""
    read: dict[str, tuple[str, ...]] = {}
    for _, objective in _members(task, pattern).values():
        names = (*objective.reads(), *objective.scalars())
        for view in objective.views():
            read[view] = tuple(dict.fromkeys((*read.get(view, ()), *names)))
    return read


def _apply(
    task: Task, state: TrainState, trained: Tree, key: Array, view: str, batch: Batch
) -> tuple[dict[str, Array], Tree]:
    """Outputs and changed state of a view; every view has dropout masks of its own."""
    variables = Variables(merge(state.params, trained), state.state)
    of_view = jax.random.fold_in(jax.random.fold_in(key, 0), zlib.crc32(view.encode()))
    return task.model.apply(variables, batch, {"dropout": of_view}, train=True)


def _loss(
    task: Task, pattern: str, ctx: Context, batch: Batch, key: Array
) -> tuple[Float[Array, ""], _Aux]:
    total, metrics, changed = jnp.zeros(()), Metrics(), Tree()
    for i, (name, objective) in _members(task, pattern).items():
        result = objective(ctx, batch, jax.random.fold_in(key, i))
        total += objective.weight * result.loss
        metrics |= {f"{name}/loss": result.loss}
        metrics |= {f"{name}/{k}": v for k, v in result.metrics.items()}
        changed |= result.state
    return total, _Aux(metrics, changed)


def _placed(task: Task, gradients: Tree) -> Tree:
    """Gradients where their updates are: left alone, they come out whole on every device.

    They pass by where the parameters are: asked for parts of a sum at once, XLA would cut the
    products that make them in pieces, which costs more than it saves.
    """
    for shardings in (task.shardings, task.updates):
        if shardings is not None:
            where = select_like(shardings, gradients)
            gradients = jax.lax.with_sharding_constraint(gradients, where)
    return gradients


# --- A batch in parts that are computed one after the other ---------------------------------------

BATCH_AXES = ACTIVATIONS["batch"]


def split(tree: Any, count: int, mesh: Mesh | None) -> Any:
    """Arrays [batch, ...] as [count, batch / count, ...]; scalars are in the first part only.

    Each device gives an equal share of its own rows to every part, so that nothing moves.
    """

    def one(x: Array) -> Array:
        if x.ndim == 0:
            return jnp.zeros(count, x.dtype).at[0].set(x)
        x = rearrange(x, "(device n b) ... -> n (device b) ...", device=_shards(mesh), n=count)
        return _constrained(x, PartitionSpec(None, BATCH_AXES), mesh)

    return jax.tree.map(one, tree)


def join(tree: Any, mesh: Mesh | None) -> Any:
    """The inverse of `split` for what was computed from the parts; scalars are those of the first.

    A scalar of the model is the same in every part.
    """

    def one(x: Array) -> Array:
        if x.ndim == 1:
            return x[0]
        x = rearrange(x, "n (device b) ... -> (device n b) ...", device=_shards(mesh))
        return _constrained(x, PartitionSpec(BATCH_AXES), mesh)

    return jax.tree.map(one, tree)


def _shards(mesh: Mesh | None) -> int:
    return 1 if mesh is None else mesh.shape["data"] * mesh.shape["fsdp"]


def _constrained(x: Array, spec: PartitionSpec, mesh: Mesh | None) -> Array:
    if mesh is None:
        return x
    return jax.lax.with_sharding_constraint(x, NamedSharding(mesh, spec))
