"""Blocks with cross-attention against BLIP's text model (`make_blip_text.py` made the reference).

The reference is float64; blocks here compute in float32. Measured maximum of the absolute
deviation: 8e-7, on values up to 3.4.
"""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from tests.models import reference
from vljax.models.compute import Compute
from vljax.models.layers.transformer import TransformerConfig, empty_cache, transformer
from vljax.models.parameters import roll

Tree = dict[str, Any]

CONFIG = TransformerConfig(
    width=32,
    depth=2,
    heads=4,
    mlp_dim=40,
    activation="gelu",
    norm_epsilon=1e-12,
    post_norm=True,
    cross_attention="after_self",
)


class Stack(nn.Module):
    causal: bool

    @nn.compact
    def __call__(
        self, x: Any, mask: Any, context: Any, context_mask: Any, cache: Any = None
    ) -> Any:
        rest = {"causal": self.causal, "context": context, "context_mask": context_mask}
        return transformer(x, mask, CONFIG, Compute(), **rest, cache=cache)


@functools.cache
def stored() -> dict[str, np.ndarray]:
    with np.load(Path(__file__).parent / "data" / "blip_text.npz") as file:
        return dict(file)


def weight(name: str) -> np.ndarray:
    return stored()[f"weights/{name}"].astype(np.float32)


def linear(name: str) -> Tree:
    return {"kernel": weight(f"{name}.weight").T, "bias": weight(f"{name}.bias")}


def norm(name: str) -> Tree:
    return {"scale": weight(f"{name}.weight"), "bias": weight(f"{name}.bias")}


def attention(name: str) -> Tree:
    heads = CONFIG.heads
    parts = {part: linear(f"{name}.self.{part}") for part in ("query", "key", "value")}
    made = {
        part: {
            "kernel": leaves["kernel"].reshape(-1, heads, CONFIG.width // heads),
            "bias": leaves["bias"].reshape(heads, -1),
        }
        for part, leaves in parts.items()
    }
    output = linear(f"{name}.output.dense")
    kernel = output["kernel"].reshape(heads, -1, CONFIG.width)
    return {**made, "output": {"kernel": kernel, "bias": output["bias"]}}


def block(i: int) -> Tree:
    here = f"encoder.layer.{i}"
    return {
        "attention": attention(f"{here}.attention"),
        "attention_norm": norm(f"{here}.attention.output.LayerNorm"),
        "cross_attention": attention(f"{here}.crossattention"),
        "cross_attention_norm": norm(f"{here}.crossattention.output.LayerNorm"),
        "mlp": {
            "up": linear(f"{here}.intermediate.dense"),
            "down": linear(f"{here}.output.dense"),
        },
        "mlp_norm": norm(f"{here}.output.LayerNorm"),
    }


def inputs() -> tuple[np.ndarray, ...]:
    """Embedded tokens and the context, each with its mask."""
    ids, context = stored()["ids"], stored()["context"].astype(np.float32)
    tables = [weight(f"embeddings.{name}_embeddings.weight") for name in ("word", "position")]
    x = reference.layer_norm(tables[0][ids] + tables[1], norm("embeddings.LayerNorm"), 1e-12)
    mask = np.arange(ids.shape[1]) < stored()["lengths"][:, None]
    context_mask = np.arange(context.shape[1]) < stored()["context_lengths"][:, None]
    return x, mask, context, context_mask


@pytest.mark.parametrize("kind", ["bidirectional", "causal"])
def test_blocks_are_those_of_blip(kind: str) -> None:
    params = roll({"blocks": {str(i): block(i) for i in range(CONFIG.depth)}})
    x, mask, context, context_mask = (jnp.asarray(array) for array in inputs())
    stack = Stack(causal=kind == "causal")
    ours = jax.jit(stack.apply)({"params": params}, x, mask, context, context_mask)
    np.testing.assert_allclose(ours[mask], stored()[kind][mask], rtol=0, atol=1e-5)


def test_decoding_is_that_of_blip() -> None:
    """Token by token, with keys and values of the context from the first step."""
    params = roll({"blocks": {str(i): block(i) for i in range(CONFIG.depth)}})
    x, mask, context, context_mask = (jnp.asarray(array) for array in inputs())
    cache, tokens = empty_cache(CONFIG, len(x), 9, jnp.float32), []
    step = jax.jit(Stack(causal=True).apply)
    for i in range(x.shape[1]):
        first = context if i == 0 else None
        token, cache = step({"params": params}, x[:, i : i + 1], None, first, context_mask, cache)
        tokens.append(token)
    ours = jnp.concatenate(tokens, 1)
    np.testing.assert_allclose(ours[mask], stored()["causal"][mask], rtol=0, atol=1e-5)
