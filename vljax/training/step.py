"""The training step: one function of (state, batch, hyper), to be jitted, and its gradient.

The gradient is of a whole batch at once, or of parts of it one after the other.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import optax
from einops import rearrange
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Float, Int

from vljax.models.assembly import Variables
from vljax.models.parameters import factors, merge, select_like
from vljax.objectives.objective import Batch, Context, Objective, Scalar, view_of
from vljax.optim import Hyper, apply_direction, learning_rate_factors
from vljax.parallel.rules import ACTIVATIONS
from vljax.training.state import Task, TrainState

Metrics = dict[str, Array]
Tree = dict[str, Any]


class Gradients(NamedTuple):
    """The loss of a batch, and its gradient by one group of parameters."""

    loss: Float[Array, ""]
    gradients: Tree
    """Mirrors the trained parameters of the group."""
    metrics: Metrics
    state: Tree
    """The entries of the model's state that changed."""


class _Aux(NamedTuple):
    metrics: Metrics
    state: Tree


def gradients_of(
    task: Task, pattern: str, state: TrainState, batch: Batch, key: Array
) -> Gradients:
    """The weighted loss of the objectives that train a pattern, with its gradient.

    Args:
      task: model, objectives and placement.
      pattern: the `trains` pattern of a group of parameters.
      state: the parameters and the model's state.
      batch: arrays `[batch, ...]`.
      key: the random key of this step.
    """
    compute = _of_whole_batch if task.accumulate == 1 else _of_parts
    found = compute(task, pattern, state, batch, key)
    chex.assert_trees_all_equal_shapes_and_dtypes(
        found.gradients, task.trained(pattern, state.params)
    )
    return found


def _of_whole_batch(
    task: Task, pattern: str, state: TrainState, batch: Batch, key: Array
) -> Gradients:
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
    return Gradients(value, _constrained(task, gradients), *aux)


def _of_parts(task: Task, pattern: str, state: TrainState, batch: Batch, key: Array) -> Gradients:
    """Exact for losses that compare examples: GradCache (Gao et al. 2021, arXiv 2101.06983).

    A first pass over the parts keeps only the outputs that objectives read. The loss of the whole
    batch gives their cotangents, and a second pass carries those back to the parameters. Dropout is
    keyed by the example index in the global batch, so both passes draw the masks that the batch
    would have if it was computed at once.
    """
    trained = task.trained(pattern, state.params)
    indices = jnp.arange(batch["valid"].shape[0])
    parts = split({**batch, "example_index": indices}, task.accumulate, task.mesh)
    views = _outputs_read(task, pattern)

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
    (value, aux), cotangents = jax.value_and_grad(loss, has_aux=True)(outputs)

    def accumulate(total: Tree, inputs: tuple[Batch, Any]) -> tuple[Tree, None]:
        part, cotangent = inputs
        _, pull_back = jax.vjp(lambda trained: outputs_of(trained, part), trained)
        return _constrained(task, jax.tree.map(jnp.add, total, pull_back(cotangent)[0])), None

    zeros = _constrained(task, jax.tree.map(jnp.zeros_like, trained))
    cotangents = split(cotangents, task.accumulate, task.mesh)
    gradients, _ = jax.lax.scan(accumulate, zeros, (parts, cotangents))
    return Gradients(value, gradients, *aux)


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
    """The weighted sum of the losses of a group's objectives."""
    total, metrics, changed = jnp.zeros(()), Metrics(), Tree()
    for number, (name, objective) in _objectives_of(task, pattern).items():
        result = objective(ctx, batch, jax.random.fold_in(key, number))
        chex.assert_rank([result.loss, *result.metrics.values()], 0)
        total += objective.weight * result.loss
        metrics |= {f"{name}/loss": result.loss}
        metrics |= {f"{name}/{k}": v for k, v in result.metrics.items()}
        changed |= result.state
    return total, _Aux(metrics, changed)


def _objectives_of(task: Task, pattern: str) -> dict[int, tuple[str, Objective]]:
    """The objectives of a group by their number in the recipe; 0 is the model's key."""
    named = enumerate(task.objectives.items(), start=1)
    return {i: (name, objective) for i, (name, objective) in named if objective.trains == pattern}


def _outputs_read(task: Task, pattern: str) -> dict[str, tuple[str, ...]]:
    """The names of the outputs that the objectives of a group read, by view."""
    read: dict[str, tuple[str, ...]] = {}
    for _, objective in _objectives_of(task, pattern).values():
        names = (*objective.reads(), *objective.scalars())
        for view in objective.views():
            read[view] = tuple(dict.fromkeys((*read.get(view, ()), *names)))
    return read


def _constrained(task: Task, gradients: Tree) -> Tree:
    """Gradients sharded as their updates. Without a constraint they come out replicated.

    They are sharded as the parameters first. If XLA is asked for the shards of a sum at once, it
    cuts the matrix products that make them into pieces, which costs more than it saves.
    """
    for shardings in (task.shardings, task.updates):
        if shardings is not None:
            where = select_like(shardings, gradients)
            gradients = jax.lax.with_sharding_constraint(gradients, where)
    return gradients


# --- Splitting a batch into parts -----------------------------------------------------------------

BATCH_AXES = ACTIVATIONS["batch"]


def split(tree: Any, count: int, mesh: Mesh | None) -> Any:
    """Arrays `[batch, ...]` as `[count, batch / count, ...]`; scalars are in the first part only.

    Every part gets an equal share of each device's own rows, so that nothing moves between devices.
    """

    def one(x: Array) -> Array:
        if x.ndim == 0:
            return jnp.zeros(count, x.dtype).at[0].set(x)
        x = rearrange(x, "(device n b) ... -> n (device b) ...", device=_devices(mesh), n=count)
        return _on_mesh(x, PartitionSpec(None, BATCH_AXES), mesh)

    return jax.tree.map(one, tree)


def join(tree: Any, mesh: Mesh | None) -> Any:
    """The inverse of `split` for outputs of the parts; of scalars, it takes the first part's.

    A scalar output of the model is the same in every part.
    """

    def one(x: Array) -> Array:
        if x.ndim == 1:
            return x[0]
        x = rearrange(x, "n (device b) ... -> (device n b) ...", device=_devices(mesh))
        return _on_mesh(x, PartitionSpec(BATCH_AXES), mesh)

    return jax.tree.map(one, tree)


def _devices(mesh: Mesh | None) -> int:
    """How many devices the batch is split over."""
    return 1 if mesh is None else mesh.shape["data"] * mesh.shape["fsdp"]


def _on_mesh(x: Array, spec: PartitionSpec, mesh: Mesh | None) -> Array:
    if mesh is None:
        return x
    return jax.lax.with_sharding_constraint(x, NamedSharding(mesh, spec))


Step = Callable[[TrainState, Batch, Hyper], tuple[TrainState, Metrics]]


def make_step(task: Task) -> Step:
    """The step of a task, to be jitted with shardings and a donated state.

    Its contract is checked while it is traced, at no cost in the compiled program: every array of a
    batch has the same first dimension, every metric is a scalar, and the new state has the
    structure, shapes and types of the old one. So the step compiles once per shape of batch.
    """

    def step(state: TrainState, batch: Batch, hyper: Hyper) -> tuple[TrainState, Metrics]:
        chex.assert_equal_shape_prefix(list(batch.values()), 1)
        chex.assert_type(batch["valid"], bool)
        chex.assert_rank(list(hyper), 0)

        key = jax.random.fold_in(jax.random.key(hyper.seed), state.step)
        rate = hyper.learning_rate * task.optimizer.schedule(state.step, task.steps)
        decays = factors(task.optimizer.decay_rules, state.params, "optim.decay_rules")
        rates = learning_rate_factors(task.optimizer, state.params)

        metrics: Metrics = {"loss": jnp.zeros(())}
        params, optimizer, model_state = state.params, dict(state.optimizer), state.state
        # Without a valid example the gradient is zero, but momentum and decay would still act.
        usable = jnp.any(batch["valid"])
        norms = []
        for i, pattern in enumerate(task.groups):
            found = gradients_of(task, pattern, state, batch, key)
            trained = task.trained(pattern, state.params)
            direction, optimizer[str(i)] = task.transformation(pattern, state.params).update(
                found.gradients, state.optimizer[str(i)], trained
            )
            moved = apply_direction(
                select_like(params, trained),
                direction,
                rate,
                hyper.weight_decay,
                select_like(decays, trained),
                select_like(rates, trained),
            )
            params = merge(params, moved)
            norms.append(optax.tree.norm(found.gradients))
            usable &= jnp.isfinite(norms[-1]) & jnp.isfinite(found.loss)
            metrics |= found.metrics
            metrics["loss"] += found.loss
            model_state = {**model_state, **found.state}

        params = _clip_scalars(params, task.scalars)
        updates = state.step - state.skipped
        average = _update_ema(task.optimizer.ema_decay, state.average, params, updates)
        updated = state._replace(
            params=params, average=average, state=model_state, optimizer=optimizer
        )
        kept = jax.tree.map(lambda new, old: jnp.where(usable, new, old), updated, state)
        skipped = state.skipped + jnp.where(usable, 0, 1)
        in_a_row = jnp.where(usable, 0, state.skipped_in_a_row + 1)
        metrics |= {
            "learning_rate": rate,
            "gradient_norm": jnp.sqrt(sum(jnp.square(norm) for norm in norms)),
            "skipped_steps": skipped,
            "skipped_in_a_row": in_a_row,
            "valid_examples": jnp.sum(batch["valid"]),
        }
        if "image_mask" in batch:
            metrics["data/padding"] = _padding_fraction(batch)
        counts = {"step": state.step + 1, "skipped": skipped, "skipped_in_a_row": in_a_row}
        after = kept._replace(**counts)
        chex.assert_trees_all_equal_shapes_and_dtypes(after, state)
        chex.assert_rank(list(metrics.values()), 0)
        return after, metrics

    return step


def _padding_fraction(batch: Batch) -> Float[Array, ""]:
    """Padding fraction of the patch sequences, over valid examples."""
    mask, valid = batch["image_mask"], batch["valid"][:, None]
    return jnp.sum(~mask & valid) / jnp.maximum(jnp.sum(valid) * mask.shape[1], 1)


def _update_ema(
    decay: float | None, average: dict[str, Any], params: dict[str, Any], updates: Int[Array, ""]
) -> dict[str, Any]:
    """The EMA parameters after one more update.

    The decay rises from 1/10 to the recipe's as (1 + updates) / (10 + updates), so that initial
    values are soon forgotten (the schedule of TensorFlow's ExponentialMovingAverage).
    """
    if decay is None:
        return average
    share = 1 - jnp.minimum(decay, (1 + updates) / (10 + updates))

    def toward(old: Float[Array, "..."], new: Float[Array, "..."]) -> Float[Array, "..."]:
        return (old + share * (new - old)).astype(old.dtype)

    return jax.tree.map(toward, average, select_like(params, average))


def _clip_scalars(params: dict[str, Any], scalars: Mapping[str, Scalar]) -> dict[str, Any]:
    """Parameters with the learned scalars clipped to their limits."""
    clipped = {
        name: jnp.clip(params[name], scalar.low, scalar.high)
        for name, scalar in scalars.items()
        if name in params
    }
    return {**params, **clipped}
