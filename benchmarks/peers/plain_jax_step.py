"""CLIP in plain JAX, written from the papers without any work on its speed.

It follows Dosovitskiy et al. 2021 and Radford et al. 2021 in the style of public JAX code bases:
unrolled blocks, separate query, key and value, softmax over all logits, gradients as JAX derives
them, the dense loss, `optax.adamw`.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from benchmarks.peers import inputs
from benchmarks.peers.worker import Spec, Workloads, serve

Tree = dict[str, Any]
DEPTH, DIM = 12, 512
IMAGE, TEXT = (768, 12), (512, 8)  # width, heads

ACTIVATIONS: dict[str, Callable[[jax.Array], jax.Array]] = {
    "gelu": functools.partial(jax.nn.gelu, approximate=False),
    "quick_gelu": lambda x: x * jax.nn.sigmoid(1.702 * x),
}


def block_params(rng: np.random.Generator, width: int, heads: int) -> Tree:
    def normal(*shape: int) -> np.ndarray:
        return rng.normal(0, 0.02, shape).astype(np.float32)

    head = width // heads
    inward = {
        f"{n}{kind}": value
        for n in "qkv"
        for kind, value in (("", normal(width, heads, head)), ("_bias", normal(heads, head)))
    }
    return {
        **inward,
        "out": normal(heads, head, width),
        "out_bias": normal(width),
        "up": normal(width, 4 * width),
        "up_bias": normal(4 * width),
        "down": normal(4 * width, width),
        "down_bias": normal(width),
        **{f"norm{i}": norm_params(width) for i in (1, 2)},
    }


def norm_params(width: int) -> Tree:
    return {"scale": np.ones(width, np.float32), "bias": np.zeros(width, np.float32)}


def model_params(spec: Spec) -> Tree:
    rng = np.random.default_rng(0)

    def normal(*shape: int) -> np.ndarray:
        return rng.normal(0, 0.02, shape).astype(np.float32)

    def tower(width: int, heads: int, length: int) -> Tree:
        return {
            "blocks": [block_params(rng, width, heads) for _ in range(DEPTH)],
            "positions": normal(length, width),
            "norm": norm_params(width),
            "projection": normal(width, DIM),
        }

    patches = (spec.image_size // spec.patch_size) ** 2
    image = {
        **tower(*IMAGE, patches + 1),
        "patch": normal(spec.patch_size, spec.patch_size, 3, IMAGE[0]),
        "cls": normal(IMAGE[0]),
        "input_norm": norm_params(IMAGE[0]),
    }
    text = {**tower(*TEXT, spec.context), "embedding": normal(spec.vocab, TEXT[0])}
    return {"image": image, "text": text, "logit_scale": np.float32(np.log(1 / 0.07))}


def norm(p: Tree, x: jax.Array) -> jax.Array:
    mean = jnp.mean(x, -1, keepdims=True)
    variance = jnp.var(x, -1, keepdims=True)
    return (x - mean) * jax.lax.rsqrt(variance + 1e-5) * p["scale"] + p["bias"]


def block(p: Tree, x: jax.Array, seen: jax.Array | None, activation: str) -> jax.Array:
    y = norm(p["norm1"], x)
    q, k, v = (jnp.einsum("btd,dhk->bthk", y, p[n]) + p[f"{n}_bias"] for n in "qkv")
    logits = jnp.einsum("bqhk,bthk->bhqt", q / jnp.sqrt(q.shape[-1]), k)
    if seen is not None:
        logits = jnp.where(seen, logits, jnp.finfo(jnp.float32).min)
    y = jnp.einsum("bhqt,bthk->bqhk", jax.nn.softmax(logits), v)
    x = x + jnp.einsum("bqhk,hkd->bqd", y, p["out"]) + p["out_bias"]
    y = ACTIVATIONS[activation](norm(p["norm2"], x) @ p["up"] + p["up_bias"])
    return x + y @ p["down"] + p["down_bias"]


def unit(x: jax.Array) -> jax.Array:
    return x / jnp.linalg.norm(x, axis=-1, keepdims=True)


def encode_image(p: Tree, pixels: jax.Array, spec: Spec) -> jax.Array:
    x = (pixels / 255.0 - jnp.asarray(inputs.MEAN)) / jnp.asarray(inputs.STD)
    window = (spec.patch_size, spec.patch_size)
    dims = ("NHWC", "HWIO", "NHWC")
    x = jax.lax.conv_general_dilated(x, p["patch"], window, "VALID", dimension_numbers=dims)
    x = x.reshape(x.shape[0], -1, x.shape[-1])
    x = jnp.concatenate([jnp.tile(p["cls"], (len(x), 1, 1)), x], axis=1) + p["positions"]
    x = norm(p["input_norm"], x)
    for each in p["blocks"]:
        x = block(each, x, None, spec.activation)
    return unit(norm(p["norm"], x)[:, 0] @ p["projection"])


def encode_text(p: Tree, ids: jax.Array, spec: Spec) -> jax.Array:
    x = p["embedding"][ids] + p["positions"]
    seen = jnp.tri(ids.shape[1], dtype=bool)
    for each in p["blocks"]:
        x = block(each, x, seen, spec.activation)
    x = norm(p["norm"], x)[jnp.arange(len(x)), jnp.argmax(ids, axis=1)]
    return unit(x @ p["projection"])


def loss(p: Tree, image: jax.Array, text: jax.Array) -> jax.Array:
    logits = jnp.exp(p["logit_scale"]) * image @ text.T
    own = jnp.arange(len(logits))
    both = (logits, logits.T)
    each = (optax.softmax_cross_entropy_with_integer_labels(way, own).mean() for way in both)
    return sum(each) / 2


def make(spec: Spec) -> Workloads:
    """The step, its forward pass, each tower's training alone, and encoding."""
    arrays = inputs.batch(spec)
    image, text = jax.device_put((arrays["image"], arrays["text"]))
    params = jax.device_put(model_params(spec))
    moves = optax.adamw(
        5e-4,
        0.9,
        0.98,
        1e-6,
        weight_decay=0.2,
        mask=lambda tree: jax.tree.map(lambda leaf: leaf.ndim > 1, tree),
    )

    def objective(p: Tree, image: jax.Array, text: jax.Array) -> jax.Array:
        return loss(p, encode_image(p["image"], image, spec), encode_text(p["text"], text, spec))

    @functools.partial(jax.jit, donate_argnums=(0, 1))
    def update(p: Tree, state: Any, image: jax.Array, text: jax.Array) -> Any:
        value, gradients = jax.value_and_grad(objective)(p, image, text)
        updates, state = moves.update(gradients, state, p)
        return optax.apply_updates(p, updates), state, value

    held = {"p": params, "state": moves.init(params)}

    def train() -> None:
        held["p"], held["state"], value = update(held["p"], held["state"], image, text)
        jax.block_until_ready((held["p"], held["state"], value))

    encoders = {"image": (encode_image, image), "text": (encode_text, text)}

    @jax.jit
    def embeddings(p: Tree, image: jax.Array, text: jax.Array) -> Any:
        return encode_image(p["image"], image, spec), encode_text(p["text"], text, spec)

    @jax.jit
    def encoded(p: Tree, image: jax.Array) -> jax.Array:
        return encode_image(p, image, spec)

    def tower(name: str) -> Callable[[], None]:
        encode, tokens = encoders[name]

        @jax.jit
        def gradient(p: Tree, tokens: jax.Array) -> Tree:
            weighted = lambda p: jnp.sum(encode(p, tokens, spec) * jnp.arange(DIM))  # noqa: E731
            return jax.grad(weighted)(p)

        return lambda: jax.block_until_ready(gradient(held["p"][name], tokens))

    return {
        "step": train,
        "forward": lambda: jax.block_until_ready(embeddings(held["p"], image, text)),
        "image tower": tower("image"),
        "text tower": tower("text"),
        "encode images": lambda: np.asarray(encoded(held["p"]["image"], arrays["image"])),
    }


if __name__ == "__main__":
    serve(make)
