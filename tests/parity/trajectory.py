"""Sizes, hyper-parameters, initial values and batches for both sides of `test_trajectory.py`.

NumPy only, since the reference is made where neither JAX nor vljax is installed. `RandomState` is
frozen (NEP 19): every NumPy gives the same numbers, and none of them needs to be stored.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Iterator
from typing import Any

import numpy as np

STEPS, WARMUP, BATCH, PAIRS = 200, 20, 16, 64
LEARNING_RATE, WEIGHT_DECAY = 1e-3, 0.2
# open_clip's defaults for Vision Transformers (`open_clip_train/params.py`).
B1, B2, EPSILON = 0.9, 0.98, 1e-6

IMAGE_SIZE, CONTEXT, VOCAB, EMBEDDING = 32, 12, 60, 16
# Widths, heads and hidden sizes differ, so that a transposed kernel does not fit. All but the
# depths divide by 2, so that a mesh of (2, 2, 2) splits them.
IMAGE = {"width": 32, "depth": 3, "heads": 4, "mlp_dim": 80, "patch_size": 8}
TEXT = {"width": 24, "depth": 2, "heads": 2, "mlp_dim": 60}

PIXELS = {
    "clip": ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)),
    "siglip": ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
}
TEMPERATURE = {"clip": 0.07, "siglip": 0.1}
LOGIT_BIAS = -10.0


def initial(family: str, name: str, shape: tuple[int, ...]) -> np.ndarray:
    """The initial value of an open_clip parameter, in float64 but exact in float32.

    Biases and norms are random too: a wrong mapping then shows.
    """
    if name == "logit_scale":
        value = np.full(shape, -math.log(TEMPERATURE[family]))
    elif name == "logit_bias":
        value = np.full(shape, LOGIT_BIAS)
    else:
        noise = np.random.RandomState(zlib.crc32(name.encode())).standard_normal(shape)
        if len(shape) == 1 and name.endswith("weight"):
            value = 1 + 0.1 * noise  # of a norm
        elif len(shape) == 1 or "embed" in name:
            value = 0.1 * noise
        else:
            value = noise / math.sqrt(noise[0].size)
    return value.astype(np.float32).astype(np.float64)


def batches() -> Iterator[dict[str, Any]]:
    """The batches of all steps: distinct pairs from a small pool, which the model learns by heart.

    uint8 images, and ids that end in the highest one (where CLIP pools) and then are 0.
    """
    random = np.random.RandomState(0)
    images = random.randint(0, 256, (PAIRS, IMAGE_SIZE, IMAGE_SIZE, 3), dtype=np.uint8)
    ids = random.randint(1, VOCAB - 1, (PAIRS, CONTEXT))
    lengths = random.randint(3, CONTEXT + 1, PAIRS)
    places = np.arange(CONTEXT)
    ids[np.arange(PAIRS), lengths - 1] = VOCAB - 1
    ids[places >= lengths[:, None]] = 0
    for _ in range(STEPS):
        rows = random.permutation(PAIRS)[:BATCH]
        yield {
            "image": images[rows],
            "text": ids[rows].astype(np.int32),
            "text_mask": places < lengths[rows, None],
            "valid": np.ones(BATCH, bool),
        }
