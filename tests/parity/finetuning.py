"""Batches and stored changes for both sides of `test_finetuning_trajectory.py`.

NumPy only, as `trajectory.py`, whose batches these are with other ids.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from tests.parity import trajectory

MODELS = {
    # Folder in data/interop: distance of neighbouring ids, end token, padding.
    "transformers_clip_a": (10, 627, 627),
    "transformers_siglip_a": (1, 1, 1),
    "open_clip_clip_a": (800, 49407, 0),
}
STEPS, BATCH = 50, trajectory.BATCH
LEARNING_RATE = 1e-3
"""100 times that of `vljax finetune`, so that 50 steps change the loss by more than a tenth."""


def batches(name: str) -> Iterator[dict[str, Any]]:
    """The batches of all steps, with ids of the vocabulary of a model."""
    distance, end, pad = MODELS[name]
    for batch in itertools.islice(trajectory.batches(), STEPS):
        ids = np.where(batch["text"] == trajectory.VOCAB - 1, end, 1 + distance * batch["text"])
        ids = np.where(batch["text_mask"], ids, pad)
        yield {**batch, "text": ids.astype(np.int32)}


UNIT = 2.0**-30
"""Changes of parameters are stored in this unit, 9.3e-10."""


def pack(arrays: Mapping[str, np.ndarray]) -> np.ndarray:
    """Small numbers as bytes: all arrays by sorted name, the highest bytes of all numbers first.

    So they take three quarters of the space that separate arrays of float32 take.
    """
    every = np.concatenate([arrays[name].ravel() for name in sorted(arrays)])
    return np.rint(every / UNIT).astype(">i4").view(np.uint8).reshape(-1, 4).T.copy()


def unpack(packed: np.ndarray, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, np.ndarray]:
    """The arrays of `pack`, in float64 and within half a unit."""
    every = np.ascontiguousarray(packed.T).view(">i4").ravel() * UNIT
    parts = np.split(every, np.cumsum([math.prod(shapes[name]) for name in sorted(shapes)]))
    assert parts.pop().size == 0, "other sizes"
    return {n: part.reshape(shapes[n]) for n, part in zip(sorted(shapes), parts, strict=True)}
