"""Small images that were decoded already, by the content of their files."""

from __future__ import annotations

import threading

import numpy as np
from jaxtyping import UInt8

# An image of a web-scale set is larger, or not seen again before memory is full.
LARGEST_PIXELS = 2**16
_BYTES = 2**28

Key = tuple[bytes, int]


class DecodedImages:
    """Keeps pixels until a limit of bytes is reached; what comes later is not kept.

    A set that does not fit is gone through in an order of its own each epoch, so that putting out
    what was used longest ago would find nothing.

    Args:
      limit: bytes of all files and pixels together.
    """

    def __init__(self, limit: int = _BYTES):
        self._left = limit
        self._kept: dict[Key, np.ndarray] = {}
        self._lock = threading.Lock()

    def find(self, key: Key) -> UInt8[np.ndarray, "height width channels"] | None:
        """The pixels of a file, read-only; None where they are not kept."""
        return self._kept.get(key)

    def keep(self, key: Key, pixels: UInt8[np.ndarray, "height width channels"]) -> None:
        """Keeps the pixels of a file if they are few, and nobody writes into them any more."""
        size = len(key[0]) + pixels.nbytes
        if pixels.shape[0] * pixels.shape[1] > LARGEST_PIXELS:
            return
        with self._lock:
            if size > self._left or key in self._kept:
                return
            self._left -= size
            pixels.setflags(write=False)
            self._kept[key] = pixels
