"""Random streams, and what a fusion makes of them with random parameters."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax.linen import meta

from tests.models.tiny import randomised
from vljax.models.compute import Call, Compute
from vljax.models.fusion import (
    AttentionWeighted,
    Concatenation,
    Decision,
    GraphFusion,
    GuidedAttention,
    Mfb,
    Mutan,
    Product,
    Sum,
)
from vljax.models.node import Encoded, Node


def stream(rows: int, length: int, width: int, seed: int = 0, *, padded: bool = False) -> Encoded:
    """Random tokens and another random vector as the pooled one; with padding, each row its own."""
    rng = np.random.default_rng(seed)
    tokens, pooled = rng.normal(size=(rows, length, width)), rng.normal(size=(rows, width))
    mask = np.ones((rows, length), bool)
    if padded:
        mask = np.arange(length) < 2 + np.arange(rows)[:, None] % (length - 1)
    return Encoded(
        jnp.asarray(tokens, jnp.float32), jnp.asarray(mask), jnp.asarray(pooled, jnp.float32)
    )


class Made(NamedTuple):
    """The products by name, and the parameters in float64."""

    products: dict[str, Any]
    params: Any


def made(node: Node, inputs: dict[str, Encoded], call: Call = Call()) -> Made:
    """Runs the node under the name `fusion`."""
    module = node.module(Compute(), "fusion")
    shapes = jax.eval_shape(lambda: module.init(jax.random.key(0), inputs, Call()))
    params = randomised(meta.unbox(shapes["params"]))
    rngs = None if call.key is None else {"dropout": call.key}
    products = jax.jit(lambda p, x: module.apply({"params": p}, x, call, rngs=rngs))(params, inputs)
    return Made(
        jax.tree.map(lambda x: np.asarray(x), products),
        jax.tree.map(lambda x: np.asarray(x, np.float64), params),
    )


def linear(params: Any, x: Any) -> np.ndarray:
    """x W + b in float64."""
    y = np.tensordot(np.asarray(x, np.float64), params["kernel"], 1)
    return y + params["bias"] if "bias" in params else y


def softmax(x: np.ndarray) -> np.ndarray:
    """Over the last axis; minus infinity for what is left out."""
    e = np.exp(x - x.max(axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)


def fusions(width: int, dropout: float) -> dict[str, Node]:
    """Fusions of the streams `image` and `question`, both `width` wide, by name."""
    both: dict[str, Any] = {"streams": ("image", "question")}
    sizes: dict[str, Any] = {**both, "width": width}
    dropped: dict[str, Any] = {**sizes, "dropout": dropout}
    guided = {"query": "question", "width": width, "dropout": dropout}
    return {
        "concatenation": Concatenation(**dropped, hidden=width),
        "sum": Sum(**dropped),
        "product": Product(**dropped, hidden=width),
        "mutan": Mutan(**dropped, projected=width, rank=3),
        "mfb": Mfb(**dropped, factor=4),
        "dot_weighted": AttentionWeighted(**dropped),
        "learned_weighted": AttentionWeighted(**dropped, score="learned", hidden=width),
        "stacked": GuidedAttention(**guided, hops=2),
        "looked": GuidedAttention(**guided, result="attended"),
        "looked_product": Product(streams=("looked", "question"), width=width),
        "convolution": GraphFusion(**dropped, neighbours=6),
        "graph_attention": GraphFusion(
            **dropped, layer="attention", heads=4, readout=("question",)
        ),
    }


def decisions(classes: int) -> dict[str, Node]:
    """A decision of the same streams by each rule."""
    fields: dict[str, Any] = {"streams": ("image", "question"), "classes": classes}
    return {
        "vote": Decision(**fields),
        "experts": Decision(**fields, rule="product"),
        "maximum": Decision(**fields, rule="maximum"),
        "stacking": Decision(**fields, rule="stacking"),
        "agreement": Decision(**fields, rule="agreement"),
    }
