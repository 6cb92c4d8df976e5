"""The training step: one function of (state, batch, hyper), to be jitted, and its gradient.

The gradient is of a whole batch at once, or of parts of it one after the other.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import optax
from einops import rearrange
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Bool, Float, Int

from vljax.config import UserError
from vljax.models.assembly import Variables
from vljax.models.compute import Call
from vljax.models.parameters import factors, merge, select_like, union
from vljax.objectives.objective import Batch, Context, Forward, Of, Scalar
from vljax.optim import Hyper, apply_direction, learning_rate_factors
from vljax.parallel.rules import ACTIVATIONS
from vljax.training.state import Task, TrainState

Metrics = dict[str, Array]
Tree = dict[str, Any]


class Gradients(NamedTuple):
    """The loss of a batch, and its gradient by some groups of parameters."""

    loss: Float[Array, ""]
    gradients: Tree
    """Mirrors the trained parameters of the groups."""
    losses: dict[str, Float[Array, ""]]
    """By the name of the objective, without its weight."""
    metrics: Metrics
    state: Tree
    """The entries of the model's state that changed."""
    kept: Tree
    """The arrays that objectives keep and that changed, by the name of the objective."""


class _Aux(NamedTuple):
    losses: dict[str, Array]
    metrics: Metrics
    state: Tree
    kept: Tree


@dataclass(frozen=True)
class _Pass:
    """One backward pass of a step: the arrays that its functions share."""

    task: Task
    objectives: tuple[str, ...]
    state: TrainState
    batch: Batch
    key: Array

    def loss(
        self, forward: Forward, shared: dict[Any, Any] | None = None
    ) -> tuple[Float[Array, ""], _Aux]:
        """The weighted sum of the losses of the objectives, computed with forward passes.

        `shared` keeps passes, so that each is made once for all objectives; by default a new dict.
        """
        total, aux = jnp.zeros(()), _Aux({}, {}, {}, {})
        shared = {} if shared is None else shared
        for name in self.objectives:
            objective = self.task.objectives[name]
            key = jax.random.fold_in(jax.random.fold_in(self.key, 1), zlib.crc32(name.encode()))
            kept = self.state.objectives.get(name, {})
            ctx = Context(
                forward,
                self.batch,
                self.task.mesh,
                name=name,
                key=key,
                state=kept,
                shared=shared,
            )
            result = objective(ctx, self.batch, key)
            chex.assert_rank([result.loss, *result.metrics.values()], 0)
            total += objective.weight * result.loss
            aux.losses[name] = result.loss
            aux.metrics.update({f"{name}/{k}": v for k, v in result.metrics.items()})
            if result.state:
                aux.kept[name] = {**kept, **jax.lax.stop_gradient(result.state)}
        return total, aux

    def apply(
        self,
        trained: Tree,
        batch: Batch,
        view: str,
        of: Of,
        given: Mapping[str, Array],
        want: Sequence[str] | None,
    ) -> tuple[dict[str, Array], Tree]:
        """Outputs and changed state; every view has dropout masks of its own."""
        params, index = self.state.params, batch.get("example_index")
        if of == "average":
            if not self.state.average:
                raise UserError("optim.ema_decay: an objective needs the average; set it")
            params = jax.lax.stop_gradient(merge(params, self.state.average))
            call = Call(example_index=index)
        else:
            params = merge(params, trained)
            key = jax.random.fold_in(jax.random.fold_in(self.key, 0), zlib.crc32(view.encode()))
            call = Call(True, index, key)
        variables = Variables(params, self.state.state)
        return self.task.model.apply(variables, batch, call, given=given, want=want)


def gradients_of(
    task: Task,
    objectives: tuple[str, ...],
    groups: tuple[str, ...],
    state: TrainState,
    batch: Batch,
    key: Array,
) -> Gradients:
    """The weighted loss of objectives, with its gradient by groups of parameters.

    Args:
      task: model, objectives and placement.
      objectives: names of the objectives.
      groups: names of the groups that they train.
      state: the parameters and the model's state.
      batch: arrays `[batch, ...]`.
      key: the random key of this step.
    """
    trained: Tree = {}
    for group in groups:
        trained = union(trained, task.trained(group, state.params))
    one = _Pass(task, objectives, state, batch, key)
    found = (_of_whole_batch if task.accumulate == 1 else _of_parts)(one, trained)
    chex.assert_trees_all_equal_shapes_and_dtypes(found.gradients, trained)
    return found


def _of_whole_batch(one: _Pass, trained: Tree) -> Gradients:
    reads = {output for name in one.objectives for output in one.task.objectives[name].reads()}
    # None makes all but the outputs that are made if wanted; XLA drops those that none reads.
    read = tuple(sorted(reads)) if reads & one.task.model.if_wanted else None

    def loss(trained: Tree) -> tuple[Array, _Aux]:
        changed: Tree = {}

        def forward(
            batch: Batch, view: str, of: Of, given: Mapping[str, Array], want: Sequence[str]
        ) -> dict[str, Array]:
            if view or given:
                return one.apply(trained, batch, view, of, given, want)[0]
            # Of the batch itself, what all objectives read is made at once.
            outputs, new = one.apply(trained, batch, view, of, given, read)
            if of == "model":
                changed.update(new)
            return outputs

        total, aux = one.loss(forward)
        return total, aux._replace(state=changed)

    (value, aux), gradients = jax.value_and_grad(loss, has_aux=True)(trained)
    return Gradients(value, _constrained(one.task, gradients), *aux)


class _Asked(NamedTuple):
    """A forward pass of the batch that objectives ask for."""

    changed: Batch
    """The entries of the batch that its view replaces or adds."""
    want: dict[str, None]


def _of_parts(one: _Pass, trained: Tree) -> Gradients:
    """Exact for losses that compare examples: GradCache (Gao et al. 2021, arXiv 2101.06983).

    A first pass over the parts keeps only the outputs that objectives read. The loss of the whole
    batch gives their cotangents, and a second pass carries those back to the parameters. Dropout is
    keyed by the example index in the global batch, so both passes draw the masks that the batch
    would have if it was computed at once. A forward pass of recombined outputs (`given`), which
    depends on the loss of the whole batch, runs within the loss, in parts that are computed again
    for its gradient.
    """
    task = one.task
    asked, nested = _what_is_asked(one, trained)
    rows = jnp.arange(len(one.batch["valid"]))
    cut = {str(i): each.changed for i, each in enumerate(asked.values())}
    parts = split({"": {**one.batch, "example_index": rows}, **cut}, task)

    def outputs_of(trained: Tree, part: dict[str, Batch]) -> dict[str, dict[str, Array]]:
        outputs = {}
        for i, ((view, of), each) in enumerate(asked.items()):
            batch = {**part[""], **part[str(i)]}
            made, _ = one.apply(trained, batch, view, of, {}, tuple(each.want))
            outputs[str(i)] = {name: made[name] for name in each.want}
        return outputs

    def real_outputs_of(trained: Tree, part: dict[str, Batch]) -> dict[str, dict[str, Array]]:
        every = outputs_of(trained, part)
        return {i: {k: v for k, v in of.items() if _is_real(v)} for i, of in every.items()}

    def loss(
        outputs: dict[str, dict[str, Array]], trained: Tree, fixed: dict[str, dict[str, Array]]
    ) -> tuple[Array, _Aux]:
        by_pass = {key: {**outputs[str(i)], **fixed[str(i)]} for i, key in enumerate(asked)}

        def forward(
            batch: Batch, view: str, of: Of, given: Mapping[str, Array], want: Sequence[str]
        ) -> dict[str, Array]:
            if not given:
                return by_pass[view, of]
            return _in_parts(one, trained, batch, view, of, given, want)

        return one.loss(forward)

    made = join(jax.lax.map(lambda part: outputs_of(trained, part), parts), task)
    # Masks and indices have no gradient.
    outputs, fixed = (
        {i: {k: v for k, v in of.items() if _is_real(v) == real} for i, of in made.items()}
        for real in (True, False)
    )
    of_loss = jax.value_and_grad(loss, argnums=(0, 1) if nested else 0, has_aux=True)
    (value, aux), found = of_loss(outputs, trained, fixed)
    cotangents, total = found if nested else (found, jax.tree.map(jnp.zeros_like, trained))

    def accumulate(total: Tree, inputs: tuple[dict[str, Batch], Any]) -> tuple[Tree, None]:
        part, cotangent = inputs
        _, pull_back = jax.vjp(lambda trained: real_outputs_of(trained, part), trained)
        return _constrained(task, jax.tree.map(jnp.add, total, pull_back(cotangent)[0])), None

    gradients, _ = jax.lax.scan(
        accumulate, _constrained(task, total), (parts, split(cotangents, task))
    )
    return Gradients(value, gradients, *aux)


def _is_real(array: Array) -> bool:
    return jnp.issubdtype(array.dtype, jnp.inexact)


class _KeepsNothing(dict[Any, Any]):
    """In place of the passes that were made: every `Context.run` makes its own."""

    def setdefault(self, key: Any, default: Any = None) -> Any:
        return default


def _what_is_asked(one: _Pass, trained: Tree) -> tuple[dict[tuple[str, Of], _Asked], bool]:
    """The forward passes that objectives ask for, and whether any is of given outputs.

    The objectives are run on zeros to find out; XLA drops what they compute. No pass is kept: one
    may have made an output that it was not asked for, such as a mask, and a later call that asks
    for it would not be seen.
    """
    asked: dict[tuple[str, Of], _Asked] = {}
    nested = False

    def forward(
        batch: Batch, view: str, of: Of, given: Mapping[str, Array], want: Sequence[str]
    ) -> dict[str, Array]:
        nonlocal nested
        nested |= bool(given)
        if not given:
            changed = {k: v for k, v in batch.items() if v is not one.batch.get(k)}
            asked.setdefault((view, of), _Asked(changed, {})).want.update(dict.fromkeys(want))
        outputs = jax.eval_shape(
            lambda: one.apply(trained, _for_given(batch, given), view, of, given, tuple(want))[0]
        )
        return {name: jnp.zeros(spec.shape, spec.dtype) for name, spec in outputs.items()}

    one.loss(forward, _KeepsNothing())
    return asked, nested


def _for_given(batch: Batch, given: Mapping[str, Array]) -> Batch:
    """The batch for a pass of given outputs: empty if they have other rows than the batch."""
    rows = next((len(array) for array in given.values()), len(batch["valid"]))
    return batch if rows == len(batch["valid"]) else {}


def _in_parts(
    one: _Pass,
    trained: Tree,
    batch: Batch,
    view: str,
    of: Of,
    given: Mapping[str, Array],
    want: Sequence[str],
) -> dict[str, Array]:
    """A forward pass of given outputs in parts, which are computed again for their gradient."""
    rows = jnp.arange(len(next(iter(given.values()))))
    batch = {**_for_given(batch, given), "example_index": rows}
    parts = split({"batch": batch, "given": dict(given)}, one.task)

    @jax.checkpoint
    def made(trained: Tree, part: dict[str, Batch]) -> dict[str, Array]:
        outputs, _ = one.apply(trained, part["batch"], view, of, part["given"], tuple(want))
        return {name: outputs[name] for name in want}

    return join(jax.lax.map(lambda part: made(trained, part), parts), one.task)


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


def split(tree: Any, task: Task) -> Any:
    """Arrays `[rows, ...]` as `[parts, rows / parts, ...]`, for `task.accumulate` parts.

    Every part gets an equal share of each device's own rows, so that nothing moves between devices.
    An output that all examples share (`Model.shared`) is in the first part only; the others have
    zeros.
    """

    def one(path: Any, x: Array) -> Array:
        if path[-1].key in task.model.shared:
            return jnp.zeros((task.accumulate, *x.shape), x.dtype).at[0].set(x)
        x = rearrange(
            x, "(device n b) ... -> n (device b) ...", device=_devices(task.mesh), n=task.accumulate
        )
        return _on_mesh(x, PartitionSpec(None, BATCH_AXES), task.mesh)

    return jax.tree_util.tree_map_with_path(one, tree)


def join(tree: Any, task: Task) -> Any:
    """The inverse of `split` for outputs of the parts; of shared outputs, the first part's."""

    def one(path: Any, x: Array) -> Array:
        if path[-1].key in task.model.shared:
            return x[0]
        x = rearrange(x, "n (device b) ... -> (device n b) ...", device=_devices(task.mesh))
        return _on_mesh(x, PartitionSpec(BATCH_AXES), task.mesh)

    return jax.tree_util.tree_map_with_path(one, tree)


def _devices(mesh: Mesh | None) -> int:
    """How many devices the batch is split over."""
    return 1 if mesh is None else mesh.shape["data"] * mesh.shape["fsdp"]


def _on_mesh(x: Array, spec: PartitionSpec, mesh: Mesh | None) -> Array:
    if mesh is None:
        return x
    return jax.lax.with_sharding_constraint(x, NamedSharding(mesh, spec))


# --- The step -------------------------------------------------------------------------------------

Step = Callable[[TrainState, Batch, Hyper], tuple[TrainState, Metrics]]


def make_step(task: Task, waiting: frozenset[str] = frozenset()) -> Step:
    """The step of a task, to be jitted with shardings and a donated state.

    Args:
      task: what is trained.
      waiting: groups that are not yet trained in the steps that this is for (`Task.waiting`); their
        gradients are left out of the program. Without it, the step is right for any step.

    Its contract is checked while it is traced, at no cost in the compiled program: every array of a
    batch has the same first dimension, every metric is a scalar, and the new state has the
    structure, shapes and types of the old one. So the step compiles once per shape of batch.
    """

    def step(state: TrainState, batch: Batch, hyper: Hyper) -> tuple[TrainState, Metrics]:
        chex.assert_equal_shape_prefix(list(batch.values()), 1)
        chex.assert_type(batch["valid"], bool)
        chex.assert_rank(jax.tree.leaves(hyper), 0)

        key = jax.random.fold_in(jax.random.key(hyper.seed), state.step)
        # Without a valid example the gradient is zero, but momentum and decay would still act.
        any_valid = jnp.any(batch["valid"])
        metrics, losses = Metrics(), dict[str, Array]()
        after, usable, norms = state, any_valid, []
        for objectives, groups in task.passes.items():
            due = tuple(group for group in groups if group not in waiting)
            found = gradients_of(task, objectives, due, state, batch, key)
            finite = jnp.isfinite(found.loss)
            kept = {**after.objectives, **found.kept}
            after = after._replace(state={**after.state, **found.state}, objectives=kept)
            for group in groups:
                norm = jnp.zeros_like(found.loss)
                if group in due:
                    after, norm, updated = _update(
                        task, group, state, after, found, hyper, any_valid & finite
                    )
                    norms.append(norm)
                    usable &= updated
                else:
                    usable &= finite
                if task.named_groups:
                    metrics |= _group_metrics(group, found.loss, norm, after, hyper, task, state)
            metrics |= found.metrics
            losses |= found.losses
        # What objectives keep and the model's state follow the parameters: all or nothing.
        changed = {"state": after.state, "objectives": after.objectives}
        before = {"state": state.state, "objectives": state.objectives}
        after = after._replace(**_where(usable, changed, before))
        skipped = state.skipped + jnp.where(usable, 0, 1)
        in_a_row = jnp.where(usable, 0, state.skipped_in_a_row + 1)
        metrics |= {f"{name}/loss": loss for name, loss in losses.items()}
        metrics |= {
            "loss": jnp.asarray(sum(task.objectives[n].weight * x for n, x in losses.items())),
            "learning_rate": hyper.learning_rate * task.optimizer.schedule(state.step, task.steps),
            "gradient_norm": jnp.sqrt(sum(jnp.square(norm) for norm in norms)),
            "skipped_steps": skipped,
            "skipped_in_a_row": in_a_row,
            "valid_examples": jnp.sum(batch["valid"]),
        }
        if "image_mask" in batch:
            metrics["data/padding"] = _padding_fraction(batch)
        after = after._replace(step=state.step + 1, skipped=skipped, skipped_in_a_row=in_a_row)
        chex.assert_trees_all_equal_shapes_and_dtypes(after, state)
        chex.assert_rank(list(metrics.values()), 0)
        return after, metrics

    return step


def _update(
    task: Task,
    group: str,
    state: TrainState,
    after: TrainState,
    found: Gradients,
    hyper: Hyper,
    usable: Bool[Array, ""],
) -> tuple[TrainState, Float[Array, ""], Bool[Array, ""]]:
    """The state with one group updated.

    Args:
      task: what is trained.
      group: name of the group.
      state: before the step.
      after: with the groups before this one updated.
      found: the gradients of this group, and maybe of others.
      hyper: the traced inputs of the step.
      usable: whether the loss is finite and some example valid.

    Returns:
      The state, the norm of the group's gradients, and whether they were usable.
    """
    optimizer, settings = task.optimizer_of(group), task.groups[group]
    learning_rate, weight_decay = hyper.of(group)
    trained = task.trained(group, state.params)
    gradients = select_like(found.gradients, trained)
    direction, moments = task.transformation(group, state.params).update(
        gradients, state.optimizer[group], trained
    )
    moved = apply_direction(
        select_like(state.params, trained),
        direction,
        learning_rate * task.schedule(group, state.step),
        weight_decay,
        select_like(factors(optimizer.decay_rules, state.params, "optim.decay_rules"), trained),
        select_like(learning_rate_factors(optimizer, state.params), trained),
    )
    moved = _clip_scalars(moved, task.scalars)
    norm = optax.tree.norm(gradients)
    since, skips = state.step, state.skipped
    if settings.start:
        since, skips = state.step - settings.start, state.group_skipped[group]
        norm = jnp.where(since < 0, 0, norm)  # a group that waits is not part of any norm
    usable &= jnp.isfinite(norm)
    changes, counted = usable, ~usable
    if settings.start:
        changes, counted = usable & (since >= 0), ~usable & (since >= 0)
    if settings.every > 1:
        changes &= since % settings.every == 0
    average = {}
    if optimizer.ema_decay is not None:
        average = select_like(state.average, trained)
        updates = (since - skips) // settings.every
        average = _update_ema(optimizer.ema_decay, average, moved, updates)
    new = {"params": moved, "moments": moments, "average": average}
    old = {
        "params": trained,
        "moments": state.optimizer[group],
        "average": select_like(state.average, average),
    }
    kept = _where(changes, new, old)
    after = after._replace(
        params=merge(after.params, kept["params"]),
        average=merge(after.average, kept["average"]),
        optimizer={**after.optimizer, group: kept["moments"]},
    )
    if group in state.group_skipped:
        skipped = state.group_skipped[group] + jnp.where(counted, 1, 0)
        after = after._replace(group_skipped={**after.group_skipped, group: skipped})
    return after, norm, usable


def _where(condition: Bool[Array, ""], new: Tree, old: Tree) -> Tree:
    return jax.tree.map(lambda new, old: jnp.where(condition, new, old), new, old)


def _group_metrics(
    group: str,
    loss: Array,
    norm: Array,
    after: TrainState,
    hyper: Hyper,
    task: Task,
    state: TrainState,
) -> Metrics:
    rate, _ = hyper.of(group)
    schedule = task.schedule(group, state.step)
    return {
        f"groups/{group}/loss": loss,
        f"groups/{group}/gradient_norm": norm,
        f"groups/{group}/learning_rate": rate * schedule,
        f"groups/{group}/skipped_steps": after.group_skipped[group],
    }


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
