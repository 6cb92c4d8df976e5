"""The training step: one jitted function of (state, batch, hyper)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

from vljax.models.assembly import Model, Variables
from vljax.models.layout import factors, merge, select, select_like
from vljax.objectives.objective import Batch, Context, Objective, Scalar
from vljax.training.optim import Hyper, Optimizer, apply_direction
from vljax.training.state import TrainState

Metrics = dict[str, Array]
Step = Callable[[TrainState, Batch, Hyper], tuple[TrainState, Metrics]]


@dataclass(frozen=True)
class Task:
    """What a step trains, and how."""

    model: Model
    objectives: Mapping[str, Objective]
    optimizer: Optimizer
    steps: int
    """Length of the run, for the schedule."""

    @property
    def groups(self) -> tuple[str, ...]:
        """The distinct patterns of parameters that objectives train, in their order."""
        return tuple(dict.fromkeys(o.trains for o in self.objectives.values()))

    @property
    def scalars(self) -> dict[str, Scalar]:
        """The learned scalars of all objectives."""
        return {k: v for o in self.objectives.values() for k, v in o.scalars().items()}


def make_step(task: Task) -> Step:
    """The step of a task, to be jitted with shardings and a donated state."""

    def step(state: TrainState, batch: Batch, hyper: Hyper) -> tuple[TrainState, Metrics]:
        key = jax.random.fold_in(jax.random.key(hyper.seed), state.step)
        factor = task.optimizer.schedule(state.step, task.steps)
        rate = hyper.learning_rate * factor
        decay = factors(task.optimizer.decay_rules, state.params, "optim.decay_rules")

        metrics: Metrics = {"loss": jnp.zeros(())}
        params, optimizer, model_state = state.params, dict(state.optimizer), state.state
        # Without a valid example the gradient is zero, but momentum and decay would still act.
        usable = jnp.any(batch["valid"])
        norms = []
        for i, pattern in enumerate(task.groups):
            trained = select(pattern, state.params)
            loss = _loss_of(task, pattern, state, batch, key)
            (value, aux), gradients = jax.value_and_grad(loss, has_aux=True)(trained)
            direction, optimizer[str(i)] = task.optimizer.transformation().update(
                gradients, state.optimizer[str(i)], trained
            )
            before, scale = select(pattern, params), select_like(decay, trained)
            moved = apply_direction(before, direction, rate, hyper.weight_decay, scale)
            params = merge(params, moved)
            norms.append(optax.tree.norm(gradients))
            usable &= jnp.isfinite(norms[-1]) & jnp.isfinite(value)
            metrics |= aux[0]
            metrics["loss"] += value
            model_state = {**model_state, **aux[1]}

        params = _limited(params, task.scalars)
        updated = TrainState(state.step, state.skipped, params, model_state, optimizer)
        kept = jax.tree.map(lambda new, old: jnp.where(usable, new, old), updated, state)
        skipped = state.skipped + jnp.where(usable, 0, 1)
        metrics |= {
            "learning_rate": rate,
            "gradient_norm": jnp.sqrt(sum(jnp.square(norm) for norm in norms)),
            "skipped_steps": skipped,
            "valid_examples": jnp.sum(batch["valid"]),
        }
        return kept._replace(step=state.step + 1, skipped=skipped), metrics

    return step


def _loss_of(
    task: Task, pattern: str, state: TrainState, batch: Batch, key: Array
) -> Callable[[dict[str, Any]], tuple[Float[Array, ""], tuple[Metrics, dict[str, Any]]]]:
    """The weighted loss of one group as a function of the parameters that it trains."""

    def loss(trained: dict[str, Any]) -> tuple[Float[Array, ""], tuple[Metrics, dict[str, Any]]]:
        variables = Variables(merge(state.params, trained), state.state)
        new_state: dict[str, Any] = {}

        def forward(view: Batch) -> dict[str, Array]:
            rngs = {"dropout": jax.random.fold_in(key, 0)}
            outputs, changed = task.model.apply(variables, view, rngs, train=True)
            new_state.update(changed)
            return outputs

        ctx = Context(forward, batch)
        total, metrics = jnp.zeros(()), {}
        for i, (name, objective) in enumerate(task.objectives.items()):
            if objective.trains != pattern:
                continue
            result = objective(ctx, batch, jax.random.fold_in(key, i + 1))
            total += objective.weight * result.loss
            metrics[f"{name}/loss"] = result.loss
            metrics |= {f"{name}/{k}": v for k, v in result.metrics.items()}
            new_state.update(result.state)
        return total, (metrics, new_state)

    return loss


def _limited(params: dict[str, Any], scalars: Mapping[str, Scalar]) -> dict[str, Any]:
    """Learned scalars put back into their limits."""
    limited = {
        name: jnp.clip(params[name], scalar.low, scalar.high)
        for name, scalar in scalars.items()
        if name in params
    }
    return {**params, **limited}
