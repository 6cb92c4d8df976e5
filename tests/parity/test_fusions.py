"""Fusions against those of transformers, with random weights.

References are in float64; ours compute in float32. Measured maximum of the absolute deviation:
1.1e-6, on values up to 4.5.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vljax.models.compute import Call, Compute
from vljax.models.fusion import GatedCrossAttention, QFormer, Resampler
from vljax.models.fusion.gated_cross_attention import GatedBlock
from vljax.models.node import Encoded
from vljax.models.parameters import roll

Tree = dict[str, Any]
HEADS = 4


@functools.cache
def stored(name: str) -> dict[str, np.ndarray]:
    with np.load(Path(__file__).parent / "data" / f"{name}.npz") as file:
        return dict(file)


class Weights:
    """The weights of one module, by our layouts."""

    def __init__(self, file: str, module: str) -> None:
        self.arrays = {
            name.removeprefix(f"{module}/"): array.astype(np.float32)
            for name, array in stored(file).items()
            if name.startswith(f"{module}/")
        }
        self.used: set[str] = set()

    def __call__(self, name: str) -> np.ndarray:
        self.used.add(name)
        return self.arrays[name]

    def _parts(self, name: str, kernel: Callable[[Any], Any], bias: Callable[[Any], Any]) -> Tree:
        made = {"kernel": kernel(self(f"{name}.weight").T)}
        if f"{name}.bias" in self.arrays:
            made["bias"] = bias(self(f"{name}.bias"))
        return made

    def linear(self, name: str) -> Tree:
        return self._parts(name, lambda kernel: kernel, lambda bias: bias)

    def norm(self, name: str) -> Tree:
        made = {"scale": self(f"{name}.weight")}
        return {**made, "bias": self(f"{name}.bias")} if f"{name}.bias" in self.arrays else made

    def attention(self, query: str, key: str, value: str, output: str) -> Tree:
        split = {
            part: self._parts(
                name,
                lambda kernel: kernel.reshape(len(kernel), HEADS, -1),
                lambda bias: bias.reshape(HEADS, -1),
            )
            for part, name in (("query", query), ("key", key), ("value", value))
        }
        joined = self._parts(
            output, lambda kernel: kernel.reshape(HEADS, -1, kernel.shape[-1]), lambda bias: bias
        )
        return {**split, "output": joined}

    def all_used(self) -> bool:
        return self.used == set(self.arrays)


def masks(file: str) -> tuple[np.ndarray, np.ndarray]:
    """Of the text, and of the context."""
    of = stored(file)
    return (
        np.arange(of["lengths"].max()) < of["lengths"][:, None],
        np.arange(of["context_lengths"].max()) < of["context_lengths"][:, None],
    )


@pytest.mark.parametrize(
    ("variant", "fields"),
    [
        ("a", {"query_key_norm": True, "gate": "scalar", "norm_epsilon": 1e-6}),
        ("b", {"query_key_norm": False, "gate": "vector", "norm_epsilon": 1e-3}),
    ],
)
def test_gated_blocks_are_those_of_idefics(variant: str, fields: Tree) -> None:
    """`IdeficsGatedCrossAttentionLayer`; the block's own branches, which differ, add zero.

    The last row attends to no image.
    """
    weights, of = Weights("idefics", f"{variant}/gated"), stored("idefics")
    cross = weights.attention(
        *(f"cross_attn.{name}_proj" for name in ("q", "k", "v", "o")),
    )
    if fields["query_key_norm"]:
        cross["query_norm"] = weights.norm("cross_attn.q_layer_norm")
        cross["key_norm"] = weights.norm("cross_attn.k_layer_norm")
    shape = (32,) if fields["gate"] == "vector" else ()
    gated = {
        "cross_attention": cross,
        "cross_attention_norm": weights.norm("input_layernorm"),
        "cross_attention_gate": weights("alpha_cross_attn").reshape(shape),
        "cross_mlp": {
            "gate": weights.linear("mlp.gate_proj"),
            "up": weights.linear("mlp.up_proj"),
            "down": weights.linear("mlp.down_proj"),
        },
        "cross_mlp_norm": weights.norm("post_attention_layernorm"),
        "cross_mlp_gate": weights("alpha_dense").reshape(shape),
    }
    assert weights.all_used()
    sizes = {"width": 32, "depth": 1, "heads": HEADS, "mlp_dim": 40}
    config = GatedCrossAttention(
        **sizes, scan=False, cross_norm="rms", cross_activation="swiglu", **fields
    )
    block = GatedBlock(config, False, Compute(), True)
    mask, seen = masks("idefics")
    x, context = (jnp.asarray(of[name], jnp.float32) for name in ("x", "context"))
    rest = (jnp.zeros(()), jnp.asarray(mask), Call(), context, jnp.asarray(seen), None)
    empty = jax.tree.map(jnp.zeros_like, block.init(jax.random.key(0), x, *rest)["params"])
    assert {name for name in empty if name.startswith("cross")} == set(gated)
    ours, _ = jax.jit(block.apply)({"params": {**empty, **gated}}, x, *rest)
    np.testing.assert_allclose(ours, of[f"{variant}/gated_out"], rtol=0, atol=1e-5)


@pytest.mark.parametrize("variant", ["a", "b"])
def test_resampler_is_that_of_idefics(variant: str) -> None:
    """`IdeficsPerceiverResampler`, with and without norms of queries and keys.

    Its rows have contexts of their own lengths, the last one none; ours are padded.
    """
    weights, of = Weights("idefics", f"{variant}/resampler"), stored("idefics")

    def block(i: int) -> Tree:
        here = f"blocks.{i}.0"
        attention = weights.attention(
            *(f"{here}.{name}_proj" for name in ("q", "k", "v", "output"))
        )
        if variant == "a":
            attention["query_norm"] = weights.norm(f"{here}.q_layer_norm")
            attention["key_norm"] = weights.norm(f"{here}.k_layer_norm")
        return {
            "cross_attention": attention,
            "cross_attention_norm": weights.norm(f"{here}.latents_layer_norm"),
            "context_norm": weights.norm(f"{here}.context_layer_norm"),
            "mlp": {
                "up": weights.linear(f"blocks.{i}.1.fc"),
                "down": weights.linear(f"blocks.{i}.1.c_proj"),
            },
            "mlp_norm": weights.norm(f"blocks.{i}.1.ln"),
        }

    blocks = {str(i): block(i) for i in range(2)}
    params = roll(
        {"queries": weights("latents"), "blocks": blocks, "norm": weights.norm("layer_norm")}
    )
    assert weights.all_used()
    config = Resampler(
        width=24,
        depth=2,
        heads=HEADS,
        mlp_dim=96,
        num_queries=3,
        activation="relu",
        norm_epsilon=1e-5,
        query_key_norm=variant == "a",
    )
    _, seen = masks("idefics")
    image = Encoded(jnp.asarray(of["context"], jnp.float32), jnp.asarray(seen))
    module = config.module(Compute(), "summary")
    made = jax.jit(lambda params: module.apply({"params": params}, {"image": image}, Call()))
    ours = made(params)["summary"].tokens
    np.testing.assert_allclose(ours, of[f"{variant}/resampler_out"], rtol=0, atol=1e-5)


@pytest.mark.parametrize("kind", ["blip2", "instruct"])
def test_q_former_is_that_of_transformers(kind: str) -> None:
    """`Blip2QFormerModel` of queries alone, every second block crossing, unrolled;
    `InstructBlipQFormerModel` with words, every block crossing, scanned."""
    weights, of = Weights("q_former", kind), stored("q_former")
    of_blip2 = kind == "blip2"
    depth, every = (4, 2) if of_blip2 else (2, 1)

    def norm(name: str) -> Tree:
        return weights.norm(f"{name}.LayerNorm")

    def attention(name: str) -> Tree:
        parts = (f"{name}.attention.{part}" for part in ("query", "key", "value"))
        return weights.attention(*parts, f"{name}.output.dense")

    def block(i: int) -> Tree:
        here = f"encoder.layer.{i}"
        names = {"attention": "attention"}
        names |= {"cross_attention": "crossattention"} if i % every == 0 else {}
        mlps = {"mlp": "_query"} if of_blip2 else {"mlp": "_query", "text_mlp": ""}
        return {
            **{ours: attention(f"{here}.{theirs}") for ours, theirs in names.items()},
            **{f"{ours}_norm": norm(f"{here}.{to}.output") for ours, to in names.items()},
            **{
                ours: {
                    "up": weights.linear(f"{here}.intermediate{suffix}.dense"),
                    "down": weights.linear(f"{here}.output{suffix}.dense"),
                }
                for ours, suffix in mlps.items()
            },
            **{f"{ours}_norm": norm(f"{here}.output{suffix}") for ours, suffix in mlps.items()},
        }

    params = {
        "queries": of["queries"].astype(np.float32),
        "embedding_norm": weights.norm("layernorm" if of_blip2 else "embeddings.layernorm"),
        "blocks": {str(i): block(i) for i in range(depth)},
    }
    mask, seen = masks("q_former")
    inputs = {"image": Encoded(jnp.asarray(of["context"], jnp.float32), jnp.asarray(seen))}
    if not of_blip2:
        words = weights("embeddings.word_embeddings.weight")[of["ids"]]
        words = words + weights("embeddings.position_embeddings.weight")
        inputs["question"] = Encoded(jnp.asarray(words), jnp.asarray(mask))
        params = roll(params)
    assert weights.all_used()
    config = QFormer(
        width=32,
        depth=depth,
        heads=HEADS,
        mlp_dim=40,
        num_queries=3,
        cross_every=every,
        text=None if of_blip2 else "question",
        scan=not of_blip2,
        norm_epsilon=1e-12 if of_blip2 else 1e-5,
    )
    module = config.module(Compute(), "fusion")
    made = jax.jit(lambda params: module.apply({"params": params}, inputs, Call()))(params)
    theirs = of[f"{kind}_out"]
    ours = made["fusion"].tokens
    np.testing.assert_allclose(ours, theirs[:, :3], rtol=0, atol=1e-5)
    if not of_blip2:
        ours = made["fusion.question"].tokens[mask]
        np.testing.assert_allclose(ours, theirs[:, 3:][mask], rtol=0, atol=1e-5)
