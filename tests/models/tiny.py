"""Tiny encoders with random weights, compiled once for all tests."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np
from flax.linen import meta

from vljax.models.compute import Compute
from vljax.models.encoders import TextTransformer, ViT
from vljax.models.node import Encoded, Encoder
from vljax.models.parameters import roll, unroll

Tree = dict[str, Any]

STACK: Tree = {"width": 32, "depth": 2, "heads": 4, "mlp_dim": 40}


def vit(**fields: Any) -> ViT:
    return ViT(**{**STACK, "image_size": 16, "patch_size": 4, **fields})


def text(**fields: Any) -> TextTransformer:
    return TextTransformer(**{**STACK, "vocab_size": 23, "context_length": 8, **fields})


def randomised(shapes: Tree, seed: int = 0) -> Tree:
    """Weights that are all random: a bias of zeros or a scale of ones would hide a mistake."""
    rng = np.random.default_rng(seed)

    def fill(path: tuple[Any, ...], leaf: jax.ShapeDtypeStruct) -> np.ndarray:
        name = path[-1].key
        noise = rng.standard_normal(leaf.shape)
        if name == "scale":
            value = 1 + 0.2 * noise
        elif name in ("kernel", "patch_embedding"):
            value = 0.2 * noise
        else:
            value = 0.5 * noise
        return value.astype(leaf.dtype)

    return jax.tree_util.tree_map_with_path(fill, shapes)


class Tower(NamedTuple):
    """A compiled encoder with its parameters, which are the same in both layouts."""

    params: Tree
    forward: Callable[..., Encoded]

    def __call__(self, inputs: Any, mask: Any = None) -> Encoded:
        return jax.device_get(self.forward(self.params, inputs, mask))


@functools.cache
def tower(config: Encoder, compute: Compute | None = None) -> Tower:
    """The encoder alone; its weights are the same scanned and unrolled."""
    module = config.module(compute or Compute(), "tower")

    def forward(params: Tree, inputs: jax.Array, mask: jax.Array | None = None) -> Encoded:
        return module.apply({"params": params}, inputs, mask)

    if config.scan:
        params = roll(tower(dataclasses.replace(config, scan=False), compute).params)
    else:
        example = config.roles(1)
        boxed = jax.eval_shape(
            module.init, jax.random.key(0), example["inputs"], example.get("mask")
        )
        params = randomised(meta.unbox(boxed["params"]))
    return Tower(params, jax.jit(forward))


def float64(tree: Tree) -> Tree:
    """Unrolled parameters in float64, for the reference."""
    return jax.tree.map(lambda x: np.asarray(x, np.float64), unroll(tree))


def images(batch: int, height: int, width: int, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return rng.integers(0, 256, (batch, height, width, 3), dtype=np.uint8)


def token_ids(batch: int, length: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 23, (batch, length), dtype=np.int32)
