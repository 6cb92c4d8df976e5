"""The base of optimizers: optax gives a direction; learning rate and weight decay scale it."""

from __future__ import annotations

import abc
import operator
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import NamedSharding
from jaxtyping import Array, Float, UInt32

from vljax.config import Component, UserError
from vljax.models.parameters import STACK, factors, select_like
from vljax.optim.schedules import Schedule, WarmupCosine

Tree = dict[str, Any]
MomentType = Literal["float32", "bfloat16"] | None
"""Type that a moment is stored in; None: the type of the parameter."""


class Hyper(NamedTuple):
    """Traced inputs of the step: runs that differ only in them share a compiled program."""

    learning_rate: Float[Array, ""]
    """The peak of the schedule."""
    weight_decay: Float[Array, ""]
    seed: UInt32[Array, ""]
    groups: dict[str, tuple[Float[Array, ""], Float[Array, ""]]] | None = None
    """Learning rate and weight decay of groups with an optimizer of their own, by name."""

    def of(self, group: str) -> tuple[Float[Array, ""], Float[Array, ""]]:
        """Learning rate and weight decay of a group."""
        return (self.groups or {}).get(group, (self.learning_rate, self.weight_decay))


@dataclass(frozen=True, kw_only=True)
class Optimizer(Component, abc.ABC):
    """Base of optimizers: a direction, a scheduled learning rate, and decoupled weight decay.

    A new optimizer implements `direction`:

    >>> @dataclass(frozen=True, kw_only=True)
    ... class SignDescent(Optimizer, name="sign"):
    ...     def direction(self, axes):
    ...         return optax.scale_by_sign()
    >>> transformation = SignDescent(clip_norm=None).transformation({"w": ("embed",)})
    >>> gradients = {"w": jnp.array([0.1, -2.0])}
    >>> direction, _ = transformation.update(gradients, transformation.init(gradients))
    >>> direction["w"].tolist()
    [1.0, -1.0]
    >>> del Optimizer.members["sign"]
    """

    learning_rate: float = 1e-3
    """The peak of the schedule."""
    rate_rules: tuple[tuple[str, float], ...] = ((".*", 1.0),)
    """Patterns of parameters with factors of the learning rate; the first match counts."""
    layer_decay: float = 1.0
    """Factor of the learning rate from a block to the one below it (Bao et al. 2022, BEiT)."""
    weight_decay: float = 0.0
    """Decoupled (Loshchilov & Hutter 2019): a step subtracts learning rate x this x parameter."""
    decay_rules: tuple[tuple[str, float], ...] = ((".*(kernel|embedding)", 1.0), (".*", 0.0))
    """Patterns of parameters with factors of the weight decay; the first match counts."""
    schedule: Schedule = field(default_factory=WarmupCosine)
    """The learning rate over time."""
    clip_norm: float | None = 1.0
    """Maximum norm of the gradients of a group of parameters; longer ones are scaled down."""
    frozen: tuple[str, ...] = ()
    """Patterns of parameters that are not trained; they have no gradients or optimizer state."""
    ema_decay: float | None = None
    """Decay of a moving average of the parameters (EMA), which is then evaluated; None: no EMA."""

    def problems(self) -> Iterator[tuple[str, str]]:
        if self.learning_rate <= 0:
            yield "learning_rate", f"must be positive, not {self.learning_rate}"
        for i, (_, factor) in enumerate(self.rate_rules):
            if factor <= 0:
                yield f"rate_rules.{i}.1", f"must be positive, not {factor}; see frozen"
        if not 0 < self.layer_decay <= 1:
            yield "layer_decay", f"must be in (0, 1], not {self.layer_decay}"
        if self.weight_decay < 0:
            yield "weight_decay", f"must be at least 0, not {self.weight_decay}"
        if self.clip_norm is not None and self.clip_norm <= 0:
            yield "clip_norm", f"must be positive, or None for no clipping, not {self.clip_norm}"
        if self.ema_decay is not None and not 0 <= self.ema_decay < 1:
            yield "ema_decay", f"must be in [0, 1), or None for no average, not {self.ema_decay}"

    @abc.abstractmethod
    def direction(self, axes: Tree) -> optax.GradientTransformation:
        """From gradients to a direction, to be multiplied by minus the learning rate.

        Args:
          axes: mirrors the parameters with tuples of logical axis names. They tell matrices from
            other arrays, and the axis of scanned layers from the dimensions of a matrix.
        """

    def transformation(self, axes: Tree) -> optax.GradientTransformation:
        """Clips the gradients, then computes the direction."""
        if self.clip_norm is None:
            return self.direction(axes)
        return optax.chain(optax.clip_by_global_norm(self.clip_norm), self.direction(axes))


@dataclass(frozen=True, kw_only=True)
class Group:
    """A group of parameters with an optimizer of its own, such as the discriminator of a GAN.

    >>> from vljax.optim import AdamW
    >>> Group(parameters="critic/.*", optim=AdamW(learning_rate=1e-4), every=5).every
    5
    """

    parameters: str = ".*"
    """Pattern of the parameters; no parameter may be in two groups."""
    optim: Optimizer | None = None
    """Its optimizer, with learning rate, schedule, frozen parameters and moving average; None for
    that of the run."""
    every: int = 1
    """It is updated in every n-th step, the first time in step `start`."""
    start: int = 0
    """Number of steps before it is trained. Until then, it stays as it is, without gradients; its
    schedule, moments and average begin at that step."""

    def problems(self) -> Iterator[tuple[str, str]]:
        if self.every < 1:
            yield "every", f"must be at least 1, not {self.every}"
        if self.start < 0:
            yield "start", f"must be at least 0, not {self.start}"

    def waits(self, step: int) -> bool:
        """Whether the group is not yet trained in a step, counted from 0."""
        return step < self.start


def decay_problems(optimizer: Optimizer, *names: str) -> Iterator[tuple[str, str]]:
    """A problem for each of these fields that is not in [0, 1), the range of a moment's decay."""
    for name in names:
        if not 0 <= getattr(optimizer, name) < 1:
            yield name, f"must be in [0, 1), not {getattr(optimizer, name)}"


# --- Learning rates and weight decay by parameter -------------------------------------------------

_AFTER_BLOCKS = ("norm", "pooling")


def learning_rate_factors(optimizer: Optimizer, params: Tree) -> Tree:
    """Factors of the learning rate, by rule and by layer: a tree that broadcasts to `params`.

    Raises:
      UserError: as `parameters.match` does for the rules, or for a layer decay without blocks.
    """
    by_rule = factors(optimizer.rate_rules, params, "optim.rate_rules")
    if optimizer.layer_decay == 1:
        return by_rule
    return jax.tree.map(operator.mul, by_rule, layer_decay_factors(optimizer.layer_decay, params))


def layer_decay_factors(decay: float, params: Tree) -> Tree:
    """Factors that fall from the heads to the embeddings, counted as in BEiT (Bao et al. 2022).

    In a tower of L blocks, block i (from 0) has decay^(L - i); patch and token embeddings,
    positions and class tokens have decay^(L + 1); the final norm, the pooling and everything
    outside of towers have 1. (timm differs in the final norm, which has the last block's factor.)

    >>> params = {"image": {"blocks": {"0": {"w": 0}, "1": {"w": 0}}, "norm": {"scale": 0}}}
    >>> layer_decay_factors(0.5, params)
    {'image': {'blocks': {'0': {'w': 0.25}, '1': {'w': 0.5}}, 'norm': {'scale': 1.0}}}

    Raises:
      UserError: if no part of the model has blocks.
    """
    if not _has_stack(params):
        raise UserError("optim.layer_decay: the model has no stack of blocks; set it to 1")

    def outside_towers(node: Any) -> Any:
        if not isinstance(node, Mapping):
            return 1.0
        if STACK in node:
            return _tower_factors(decay, node)
        return {name: outside_towers(child) for name, child in node.items()}

    return outside_towers(params)


def _has_stack(node: Any) -> bool:
    return isinstance(node, Mapping) and (STACK in node or any(map(_has_stack, node.values())))


def _tower_factors(decay: float, tower: Mapping[str, Any]) -> Tree:
    stack = tower[STACK]
    unrolled = all(name.isdigit() for name in stack)
    depth = len(stack) if unrolled else jax.tree.leaves(stack)[0].shape[0]
    by_block = [decay ** (depth - i) for i in range(depth)]

    def part(name: str, child: Any) -> Any:
        if name != STACK:
            factor = 1.0 if name in _AFTER_BLOCKS else decay ** (depth + 1)
            return jax.tree.map(lambda _: factor, child)
        if unrolled:
            return {i: jax.tree.map(lambda _, i=i: by_block[int(i)], stack[i]) for i in stack}
        return jax.tree.map(
            lambda leaf: np.asarray(by_block).reshape(-1, *(1,) * (len(leaf.shape) - 1)), child
        )

    return {name: part(name, child) for name, child in tower.items()}


def apply_direction(
    params: Tree,
    direction: Tree,
    learning_rate: Float[Array, ""],
    weight_decay: Float[Array, ""],
    decays: Tree,
    rates: Tree,
) -> Tree:
    """Parameters after one step: p - learning rate x rate x (direction + weight decay x decay x p).

    A factor of the learning rate applies to the decay too, as in the parameter groups of PyTorch;
    `lr_mults` of big_vision do not change the decay.

    Args:
      params: the parameters that are trained.
      direction: mirrors `params`, as `Optimizer.direction` gives it.
      learning_rate: of this step.
      weight_decay: of the run.
      decays: mirrors `params` with factors of the weight decay.
      rates: mirrors `params` with factors of the learning rate; see `learning_rate_factors`.
    """

    def move(param: Array, toward: Array, decay: Any, rate: Any) -> Array:
        # Factors that are 0 or 1 everywhere leave no trace in the program.
        if not _is(decay, 0):
            toward = toward + weight_decay * decay * param
        scale = learning_rate if _is(rate, 1) else learning_rate * rate
        return jnp.asarray(param - scale * toward, param.dtype)

    return jax.tree.map(move, params, direction, decays, rates)


def _is(factor: Any, value: float) -> bool:
    return isinstance(factor, float) and factor == value


# --- Sharding of optimizer state ------------------------------------------------------------------


def state_shardings(
    transformation: optax.GradientTransformation,
    state: Any,
    params: Tree,
    shardings: Tree,
    whole: NamedSharding,
) -> Any:
    """A sharding for every array of an optimizer's state.

    An array that belongs to a parameter and has its shape is a moment, and is sharded like it. All
    else (counts, factored mean squares) is small and is not split.

    Args:
      transformation: what the state belongs to.
      state: the optimizer state, as shapes or arrays.
      params: the parameters that it is for, as shapes or arrays.
      shardings: mirrors `params`; it may have more entries.
      whole: the sharding of what is not split.
    """

    def of_param(part: Any, param: Any, sharding: NamedSharding) -> Any:
        # One array, or all that `adafactor.per_layer` keeps for a parameter.
        return jax.tree.map(lambda leaf: sharding if leaf.shape == param.shape else whole, part)

    return optax.tree.map_params(
        transformation,
        of_param,
        state,
        params,
        select_like(shardings, params),
        transform_non_params=lambda _: whole,
        is_leaf=lambda node: not isinstance(node, Mapping),
    )
