"""The training step: one function of (state, batch, hyper), to be jitted."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import chex
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int

from vljax.models.parameters import factors, merge, select_like
from vljax.objectives.objective import Batch, Scalar
from vljax.optim import Hyper, apply_direction, learning_rate_factors
from vljax.training.gradients import Metrics, gradients_of
from vljax.training.state import Task, TrainState

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
