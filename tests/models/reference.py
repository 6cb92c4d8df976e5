"""The towers once more, in float64 NumPy and with loops where that is plainer than an einsum.

Written from the papers (Vaswani et al. 2017, Dosovitskiy et al. 2021, Zhai et al. 2022), for
comparison; shares no code with vljax. Parameters are nested dicts of one block each.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from PIL import Image

Tree = dict[str, Any]

_erf = np.vectorize(math.erf, otypes=[np.float64])


def gelu(x: np.ndarray) -> np.ndarray:
    return x * 0.5 * (1 + _erf(x / math.sqrt(2)))


def gelu_tanh(x: np.ndarray) -> np.ndarray:
    return 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


def quick_gelu(x: np.ndarray) -> np.ndarray:
    return x / (1 + np.exp(-1.702 * x))


def relu(x: np.ndarray) -> np.ndarray:
    return np.maximum(x, 0)


ACTIVATIONS = {
    "gelu": gelu,
    "gelu_tanh": gelu_tanh,
    "quick_gelu": quick_gelu,
    "relu": relu,
    "squared_relu": lambda x: relu(x) ** 2,
}


def layer_norm(x: np.ndarray, params: Tree, epsilon: float) -> np.ndarray:
    centred = x - x.mean(-1, keepdims=True)
    variance = (centred**2).mean(-1, keepdims=True)
    return centred / np.sqrt(variance + epsilon) * params["scale"] + params["bias"]


def attend(
    query: np.ndarray,
    key: np.ndarray,
    value: np.ndarray,
    mask: np.ndarray | None = None,
    causal: bool = False,
) -> np.ndarray:
    """[batch, queries or keys, heads, head_dim] in, queries out; a query that may see no key at all
    gets the mean of the values. The mask is [batch, keys] or [batch, queries, keys], or 1 for batch
    or queries; the last query sees all keys if causal."""
    scores = np.einsum("bqhd,bkhd->bhqk", query, key) / math.sqrt(query.shape[-1])
    allowed = np.ones(scores.shape, bool)
    if mask is not None:
        allowed &= mask[:, None, None, :] if mask.ndim == 2 else mask[:, None]
    if causal:
        queries, keys = scores.shape[-2:]
        allowed &= np.arange(keys)[None, :] <= np.arange(queries)[:, None] + keys - queries
    weights = np.where(allowed, np.exp(scores - scores.max(-1, keepdims=True)), 0)
    weights[~allowed.any(-1)] = 1
    return np.einsum("bhqk,bkhd->bqhd", weights / weights.sum(-1, keepdims=True), value)


def attention(
    params: Tree, x: np.ndarray, context: np.ndarray, mask: np.ndarray | None, causal: bool
) -> np.ndarray:
    def split(name: str, y: np.ndarray) -> np.ndarray:
        y = np.einsum("bte,ehd->bthd", y, params[name]["kernel"])
        return y + params[name].get("bias", 0)

    y = attend(split("query", x), split("key", context), split("value", context), mask, causal)
    y = np.einsum("bthd,hde->bte", y, params["output"]["kernel"])
    return y + params["output"].get("bias", 0)


def mlp(params: Tree, x: np.ndarray, activation: str) -> np.ndarray:
    up = x @ params["up"]["kernel"] + params["up"].get("bias", 0)
    if activation == "swiglu":
        gate = x @ params["gate"]["kernel"] + params["gate"]["bias"]
        hidden = gate / (1 + np.exp(-gate)) * up
    else:
        hidden = ACTIVATIONS[activation](up)
    return hidden @ params["down"]["kernel"] + params["down"].get("bias", 0)


def transformer(
    params: Tree,
    x: np.ndarray,
    mask: np.ndarray | None,
    config: Any,
    causal: bool,
    context: np.ndarray | None = None,
    context_mask: np.ndarray | None = None,
) -> np.ndarray:
    epsilon = config.norm_epsilon
    order = {
        "none": ("attention", "mlp"),
        "after_self": ("attention", "cross_attention", "mlp"),
        "before_self": ("cross_attention", "attention", "mlp"),
    }[config.cross_attention]
    for i in range(config.depth):
        block = params["blocks"][str(i)]
        for name in order:
            if name not in block:
                continue
            norm = block[f"{name}_norm"]
            y = x if config.post_norm else layer_norm(x, norm, epsilon)
            if name == "attention":
                y = attention(block[name], y, y, mask, causal)
            elif name == "cross_attention":
                y = attention(block[name], y, context, context_mask, causal=False)
            else:
                y = mlp(block[name], y, config.activation)
            x = x + y * block.get(f"{name}_scale", 1)
            x = layer_norm(x, norm, epsilon) if config.post_norm else x
    return x if config.post_norm else layer_norm(x, params["norm"], epsilon)


def attention_pooling(
    params: Tree, tokens: np.ndarray, mask: np.ndarray | None, config: Any
) -> np.ndarray:
    probe = np.broadcast_to(params["probe"], (len(tokens), 1, tokens.shape[-1]))
    x = attention(params["attention"], probe, tokens, mask, causal=False)
    normed = layer_norm(x, params["norm"], config.norm_epsilon)
    return (x + mlp(params["mlp"], normed, config.activation))[:, 0]


def sincos_2d(rows: int, columns: int, width: int) -> np.ndarray:
    """big_vision's variant of the positions of MoCo v3, value by value."""
    table = np.zeros((rows * columns, width))
    quarter = width // 4
    for row in range(rows):
        for column in range(columns):
            for i in range(quarter):
                frequency = 10_000.0 ** (-i / (quarter - 1))
                place = table[row * columns + column]
                place[i] = math.sin(column * frequency)
                place[quarter + i] = math.cos(column * frequency)
                place[2 * quarter + i] = math.sin(row * frequency)
                place[3 * quarter + i] = math.cos(row * frequency)
    return table


def resample(table: np.ndarray, rows: int, columns: int) -> np.ndarray:
    """Pillow's bilinear resize (antialiased when it shrinks), a dimension at a time."""
    side = math.isqrt(len(table))
    grids = table.T.reshape(-1, side, side).astype(np.float32)
    resized = [
        np.asarray(Image.fromarray(grid).resize((columns, rows), Image.Resampling.BILINEAR))
        for grid in grids
    ]
    return np.stack(resized, axis=-1).reshape(rows * columns, -1).astype(np.float64)


def vit(params: Tree, image: np.ndarray, config: Any) -> tuple[np.ndarray, np.ndarray]:
    """Tokens and pooled vectors of uint8 images."""
    pixels = (image / 255 - np.asarray(config.pixel_mean)) / np.asarray(config.pixel_std)
    size = config.patch_size
    rows, columns = pixels.shape[1] // size, pixels.shape[2] // size
    patches = [
        pixels[:, r * size : (r + 1) * size, c * size : (c + 1) * size]
        for r in range(rows)
        for c in range(columns)
    ]
    kernel = params["patch_embedding"]
    x = np.stack([np.einsum("bpqc,pqce->be", patch, kernel) for patch in patches], axis=1)
    x = x + params.get("patch_bias", 0)
    if config.positions == "sincos":
        x = x + sincos_2d(rows, columns, config.width)
    elif (rows, columns) == (config.grid, config.grid):
        x = x + params["positions"]
    else:
        x = x + resample(params["positions"], rows, columns)
    extra = [params[name] for name in ("cls", "registers") if name in params]
    for table in reversed(extra):
        x = np.concatenate([np.broadcast_to(table, (len(x), *table.shape)), x], axis=1)
    if config.input_norm:
        x = layer_norm(x, params["input_norm"], config.norm_epsilon)
    tokens = transformer(params, x, None, config, causal=False)
    own = tokens[:, sum(len(table) for table in extra) :]  # those of patches
    if config.pooling == "cls":
        return tokens, tokens[:, 0]
    if config.pooling == "mean":
        return tokens, own.mean(1)
    return tokens, attention_pooling(params["pooling"], own, None, config)


def text(
    params: Tree, ids: np.ndarray, mask: np.ndarray, config: Any
) -> tuple[np.ndarray, np.ndarray]:
    """Tokens and pooled vectors of token ids."""
    x = params["embedding"][ids] + params["positions"][: ids.shape[1]]
    attended = mask if config.mask_padding else None
    tokens = transformer(params, x, attended, config, config.causal)
    lengths = mask.sum(1)
    if config.pooling == "map":
        return tokens, attention_pooling(params["pooling"], tokens, mask, config)
    pooled = {
        "first": lambda row, length: row[0],
        "last": lambda row, length: row[-1],
        "eos": lambda row, length: row[length - 1],
        "mean": lambda row, length: row[:length].mean(0),
    }[config.pooling]
    return tokens, np.stack([pooled(*pair) for pair in zip(tokens, lengths, strict=True)])
