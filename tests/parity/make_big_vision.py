"""Makes tiny towers of big_vision in `data/`, by running its own modules.

Run by hand, never by the tests, with a checkout of github.com/google-research/big_vision:

    python tests/parity/make_big_vision.py CHECKOUT   # with flax 0.12.8

Its utilities need TensorFlow and do not affect the outputs, so they are replaced. Every weight
is random and exact in float16; outputs are computed in float64. `big_vision.npz` is a SigLIP with
attention pooling and scanned layers, `big_vision_cls.npz` a LiT with a class token, unrolled.
"""

from __future__ import annotations

import os
import sys
import types
from pathlib import Path

os.environ["JAX_ENABLE_X64"] = "1"

import flax
import flax.linen as nn
import flax.training
import jax
import numpy as np

DATA = Path(__file__).parent / "data"
IMAGE = {"width": 32, "depth": 3, "mlp_dim": 56, "num_heads": 4, "patch_size": (8, 8)}
TEXT = {"width": 24, "depth": 2, "mlp_dim": 40, "num_heads": 3, "vocab_size": 50}
CONTEXT = 9


def modules(checkout: str) -> types.ModuleType:
    """The module of two towers, with stand-ins for the modules that read and write files."""
    sys.path.insert(0, checkout)
    for name in ("big_vision.utils", "big_vision.models.common", "flax.training.checkpoints"):
        sys.modules[name] = types.ModuleType(name)
    import big_vision

    big_vision.utils = sys.modules["big_vision.utils"]
    flax.training.checkpoints = sys.modules["flax.training.checkpoints"]
    import big_vision.models
    import big_vision.models.proj.image_text.two_towers as two_towers

    big_vision.models.common = sys.modules["big_vision.models.common"]
    return two_towers


def randomised(params: dict, seed: int) -> dict:
    """Random weights of a size that keeps activations near 1."""
    rng = np.random.default_rng(seed)

    def one(path: tuple, leaf: jax.Array) -> np.ndarray:
        name, noise = path[-1], rng.normal(size=leaf.shape)
        if name == "scale":
            value = 1 + 0.3 * noise
        elif name == "kernel":
            value = noise / np.sqrt(leaf.size / leaf.shape[-1])
        else:
            value = 0.5 * noise
        return value.astype(np.float16).astype(np.float64)

    flat = flax.traverse_util.flatten_dict(params)
    return flax.traverse_util.unflatten_dict({k: one(k, v) for k, v in flat.items()})


def save(name: str, model: nn.Module, seed: int) -> None:
    rng = np.random.default_rng(seed)
    image = rng.integers(0, 256, (3, 32, 32, 3), dtype=np.uint8)
    text = rng.integers(2, 50, (4, CONTEXT)).astype(np.int32)
    inputs = image.astype(np.float64) / 127.5 - 1, text
    shapes = jax.eval_shape(model.init, jax.random.key(0), *inputs)
    params = randomised(shapes["params"], seed)
    zimg, ztxt, out = jax.jit(lambda params: model.apply({"params": params}, *inputs))(params)
    names = flax.traverse_util.flatten_dict(params, sep="/")
    np.savez_compressed(
        DATA / f"{name}.npz", **{f"params/{k}": v.astype(np.float16) for k, v in names.items()}
    )
    outputs = {"image/embedding": zimg, "text/embedding": ztxt}
    outputs |= {"image/pooled": out["img/pre_logits"], "text/pooled": out["txt/pre_logits"]}
    np.savez_compressed(
        DATA / f"{name}_outputs.npz",
        image=image,
        text=text,
        **{k: np.float32(v) for k, v in outputs.items()},
    )


def main(checkout: str) -> None:
    towers = modules(checkout)
    siglip = {"image": {**IMAGE, "pool_type": "map", "num_classes": None, "scan": True}}
    siglip["text"] = {**TEXT, "pool_type": "last", "scan": True}
    save("big_vision", towers.Model(**siglip, out_dim=(None, 32), bias_init=-10.0), seed=0)
    lit = {"image": {**IMAGE, "pool_type": "tok"}, "text": {**TEXT, "pool_type": "map"}}
    save("big_vision_cls", towers.Model(**lit, out_dim=20), seed=1)


if __name__ == "__main__":
    main(sys.argv[1])
