"""Seeds and random generators for the order of examples and for transforms.

Each is a hash of what it belongs to, so that a batch is a function of the recipe, the seed and the
step alone.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np


def example_generator(seed: int, source: str, epoch: int, index: int) -> np.random.Generator:
    """The random generator for one example in one epoch.

    A Philox generator. Its key is the first 128 bits of the SHA-256 of the four arguments, so that
    draws do not depend on the step, the batch size, the process or the worker.

    >>> first = example_generator(0, "jsonl:pets.jsonl", epoch=0, index=7).random()
    >>> first == example_generator(0, "jsonl:pets.jsonl", epoch=0, index=7).random()
    True

    Args:
      seed: seed of the run.
      source: full name of the source.
      epoch: epoch of the source, from 0.
      index: index of the example in the source.
    """
    return np.random.Generator(
        np.random.Philox(key=_hash(16, "example", seed, source, epoch, index))
    )


@dataclass(frozen=True)
class Step:
    """The step that a batch is for; transforms find it as `example["step"]`."""

    seed: int
    """Seed of the run."""
    number: int
    """Number of the step."""

    def generator(self) -> np.random.Generator:
        """A new generator that gives the same draws for all examples of the batch."""
        return np.random.Generator(np.random.Philox(key=_hash(16, "step", self.seed, self.number)))


def shuffle_seed(seed: int, source: str) -> int:
    """The 32-bit seed of the permutations of a source.

    Grain shuffles epoch e with `seed + e`. Without the hash, a run with seed s + 1 would see the
    permutations of a run with seed s, one epoch earlier.
    """
    return _hash(4, "shuffle", seed, source)


def _hash(size: int, *parts: object) -> int:
    text = "\0".join(str(part) for part in parts)
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:size], "big")
