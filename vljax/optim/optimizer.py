"""The kind of optimizers: a direction by optax, to be scaled by a learning rate."""

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
from jax.tree_util import DictKey
from jaxtyping import Array, Float, UInt32

from vljax.config import Component, UserError
from vljax.models.parameters import STACK, factors, leaves
from vljax.optim.schedules import Schedule, WarmupCosine

Tree = dict[str, Any]
MomentType = Literal["float32", "bfloat16"] | None
"""Type that a moment is stored in; None: that of the parameter."""


class Hyper(NamedTuple):
    """What may differ between runs of one compiled step."""

    learning_rate: Float[Array, ""]
    """The peak."""
    weight_decay: Float[Array, ""]
    seed: UInt32[Array, ""]


@dataclass(frozen=True, kw_only=True)
class Optimizer(Component, abc.ABC):
    """Kind of optimizers: a direction, scaled by a scheduled learning rate, with weight decay."""

    learning_rate: float = 1e-3
    """The peak."""
    rate_rules: tuple[tuple[str, float], ...] = ((".*", 1.0),)
    """Pattern and factor of the learning rate; the first that matches a parameter holds."""
    layer_decay: float = 1.0
    """Factor of the learning rate from each block to the one before (Bao et al. 2022, BEiT)."""
    weight_decay: float = 0.0
    """Decoupled (Loshchilov & Hutter 2019): a step takes off learning rate x this x value."""
    decay_rules: tuple[tuple[str, float], ...] = ((".*(kernel|embedding)", 1.0), (".*", 0.0))
    """Pattern and factor of the weight decay; the first that matches a parameter holds."""
    schedule: Schedule = field(default_factory=WarmupCosine)
    """The learning rate over time."""
    clip_norm: float | None = 1.0
    """Gradients longer than that, over the parameters of a `trains` pattern, are scaled to it."""
    frozen: tuple[str, ...] = ()
    """Patterns of parameters that stay as they are: without gradients and optimizer state."""
    ema_decay: float | None = None
    """Share that a moving average of the parameters keeps in a step; evaluated where it is set."""

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
        """Gradients to a direction that still lacks learning rate and sign.

        Args:
          axes: mirrors the parameters with tuples of logical axis names, by which an optimizer that
            treats matrices apart knows them, and layers that are scanned from their dimensions.
        """

    def transformation(self, axes: Tree) -> optax.GradientTransformation:
        """Clipping and the direction."""
        if self.clip_norm is None:
            return self.direction(axes)
        return optax.chain(optax.clip_by_global_norm(self.clip_norm), self.direction(axes))


def not_below_one(optimizer: Optimizer, *names: str) -> Iterator[tuple[str, str]]:
    """A problem for each of these fields that is no decay of a moment, in [0, 1)."""
    for name in names:
        if not 0 <= getattr(optimizer, name) < 1:
            yield name, f"must be in [0, 1), not {getattr(optimizer, name)}"


# --- What a direction is multiplied by: learning rate, its factors, and weight decay --------------

_LAST = ("norm", "pooling")
"""What stands behind the blocks of a tower."""


def rate_factors(optimizer: Optimizer, params: Tree) -> Tree:
    """Factors of the learning rate, by rule and by layer: a tree that broadcasts to `params`.

    Raises:
      UserError: as `parameters.match` does for the rules, or for a layer-wise decay without blocks.
    """
    by_rule = factors(optimizer.rate_rules, params, "optim.rate_rules")
    if optimizer.layer_decay == 1:
        return by_rule
    return jax.tree.map(operator.mul, by_rule, layer_factors(optimizer.layer_decay, params))


def layer_factors(decay: float, params: Tree) -> Tree:
    """Factors that fall from the heads to the embeddings, by BEiT's count (Bao et al. 2022).

    In a tower of L blocks, block i (from 0) has decay^(L - i); patch and token embeddings,
    positions and class tokens have decay^(L + 1); the final norm, the pooling and all that is
    outside of towers have 1. (timm differs in the final norm: it goes with the last block there.)

    Raises:
      UserError: if there is no tower: nothing has blocks.
    """
    if not _has_stack(params):
        raise UserError("optim.layer_decay: the model has no stack of blocks; set it to 1")
    return _outside(decay, params)


def _has_stack(node: Any) -> bool:
    return isinstance(node, Mapping) and (STACK in node or any(map(_has_stack, node.values())))


def _outside(decay: float, node: Any) -> Any:
    """Factors of what belongs to no tower, down to where towers begin."""
    if not isinstance(node, Mapping):
        return 1.0
    if STACK in node:
        return _tower(decay, node)
    return {name: _outside(decay, child) for name, child in node.items()}


def _tower(decay: float, tower: Mapping[str, Any]) -> Tree:
    stack = tower[STACK]
    unrolled = all(name.isdigit() for name in stack)
    depth = len(stack) if unrolled else jax.tree.leaves(stack)[0].shape[0]
    by_block = [decay ** (depth - i) for i in range(depth)]

    def part(name: str, child: Any) -> Any:
        if name != STACK:
            factor = 1.0 if name in _LAST else decay ** (depth + 1)
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

    A factor of the learning rate holds for the decay too, as in the parameter groups of PyTorch;
    `lr_mults` of big_vision leave the decay as it is.

    Args:
      decays: mirrors `params` with factors of the weight decay.
      rates: mirrors `params` with factors of the learning rate, see `rate_factors`.
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


# --- Where the arrays of an optimizer's state go on a mesh ----------------------------------------


def place(state: Any, params: Tree, shardings: Tree, whole: NamedSharding) -> Any:
    """A sharding for every array of an optimizer's state.

    An array that stands under the path of a parameter and has its shape is a moment of it and
    goes where the parameter goes. All else (counts, factored mean squares) is small and stays
    whole.

    Args:
      state: the optimizer state, as shapes or arrays.
      params: the parameters that it is for, as shapes or arrays.
      shardings: mirrors `params`, with more entries where not all parameters are trained.
      whole: the sharding of what is not split.
    """
    places = dict(leaves(shardings))
    known = {keys: (leaf.shape, places[keys]) for keys, leaf in leaves(params)}

    def at(path: tuple[Any, ...], leaf: Any) -> NamedSharding:
        names = tuple(key.key for key in path if isinstance(key, DictKey))
        for start in range(len(names)):
            shape, sharding = known.get(names[start:], (None, whole))
            if shape == leaf.shape:
                return sharding
        return whole

    return jax.tree_util.tree_map_with_path(at, state)
