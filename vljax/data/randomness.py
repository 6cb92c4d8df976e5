"""Where the order of examples and the draws of transforms come from."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np


def example_generator(seed: int, source: str, epoch: int, index: int) -> np.random.Generator:
    """The generator for one visit of one example.

    A Philox generator whose key is the first 128 bits of the SHA-256 of the four arguments. Nothing
    else enters: not the step, the batch size, the process or the worker.

    Args:
      seed: the seed of the run.
      source: the full name of the source.
      epoch: how often the source has been gone through before.
      index: the index of the example in the source.
    """
    return np.random.Generator(
        np.random.Philox(key=_hash(16, "example", seed, source, epoch, index))
    )


@dataclass(frozen=True)
class Step:
    """The batch that an example is made for; transforms find it as `example["step"]`."""

    seed: int
    """Of the run."""
    number: int
    """Of the batch."""

    def generator(self) -> np.random.Generator:
        """A new generator, the same for all examples of the batch in all processes."""
        return np.random.Generator(np.random.Philox(key=_hash(16, "step", self.seed, self.number)))


def shuffle_seed(seed: int, source: str) -> int:
    """The 32-bit seed of the permutations of a source.

    Grain shuffles epoch e with `seed + e`. Hashed, so that runs with neighbouring seeds do not see
    each other's permutations an epoch apart.
    """
    return _hash(4, "shuffle", seed, source)


def _hash(size: int, *parts: object) -> int:
    text = "\0".join(str(part) for part in parts)
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:size], "big")
