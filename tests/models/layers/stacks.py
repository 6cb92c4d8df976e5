"""Stacks of blocks with random weights."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from flax.linen import meta

from tests.models.tiny import STACK, randomised
from vljax.models.compute import Compute
from vljax.models.layers.transformer import TransformerConfig, transformer
from vljax.models.parameters import roll


class Stack(nn.Module):
    """The blocks alone."""

    config: TransformerConfig
    causal: bool = False

    @nn.compact
    def __call__(self, x: jax.Array, mask: jax.Array | None = None, **rest: Any) -> Any:
        return transformer(x, mask, self.config, Compute(), causal=self.causal, **rest)


def config(**fields: Any) -> TransformerConfig:
    return TransformerConfig(**{**STACK, **fields})


def weights(config: TransformerConfig, context_width: int | None = None) -> dict[str, Any]:
    """Random parameters, the same scanned and unrolled."""
    unrolled = dataclasses.replace(config, scan=False)
    rest = {} if context_width is None else {"context": jnp.zeros((1, 1, context_width))}
    init = jax.eval_shape(
        lambda: Stack(unrolled).init(jax.random.key(0), jnp.zeros((1, 2, config.width)), **rest)
    )
    params = randomised(meta.unbox(init["params"]))
    return roll(params) if config.scan else params


def normal(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)
