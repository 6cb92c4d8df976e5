"""What a direction is multiplied by: learning rate, its factors, and weight decay."""

from __future__ import annotations

import operator
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from vljax.config import UserError
from vljax.models.layout import STACK, factors
from vljax.training.optim_base import Optimizer, Tree

_LAST = ("norm", "pooling")
"""What stands behind the blocks of a tower."""


def rate_factors(optimizer: Optimizer, params: Tree) -> Tree:
    """Factors of the learning rate, by rule and by layer: a tree that broadcasts to `params`.

    Raises:
      UserError: as `layout.match` does for the rules, or for a layer-wise decay without blocks.
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
