"""The batch that all peers compute, and how images are normalised."""

from __future__ import annotations

import numpy as np

from benchmarks.peers.worker import Spec

MEAN = (0.48145466, 0.4578275, 0.40821073)
STD = (0.26862954, 0.26130258, 0.27577711)


def batch(spec: Spec) -> dict[str, np.ndarray]:
    """Random pixels and ids; texts of 8 to 60 tokens that end with the largest id."""
    rng = np.random.default_rng(0)
    shape = (spec.batch, spec.image_size, spec.image_size, 3)
    text = rng.integers(1, spec.vocab - 2, (spec.batch, spec.context))
    lengths = rng.integers(8, 60, spec.batch)
    mask = np.arange(spec.context) < lengths[:, None]
    text[np.arange(spec.batch), lengths - 1] = spec.vocab - 1
    return {
        "image": rng.integers(0, 256, shape, dtype=np.uint8),
        "text": np.where(mask, text, 0).astype(np.int32),
        "text_mask": mask,
    }
