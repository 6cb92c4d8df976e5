"""Arrays that are not in memory yet: what is known of them, and how to get them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import ml_dtypes
import numpy as np

from vljax.config import UserError

FLOATS = {
    "float64": np.dtype(np.float64),
    "float32": np.dtype(np.float32),
    "float16": np.dtype(np.float16),
    "bfloat16": np.dtype(ml_dtypes.bfloat16),
}
"""The formats that weights come in."""


@runtime_checkable
class Tensor(Protocol):
    """An array that is read when it is asked for."""

    @property
    def shape(self) -> tuple[int, ...]: ...

    @property
    def dtype(self) -> np.dtype[Any]: ...

    def read(self) -> np.ndarray:
        """The array, read anew each time. Raises UserError if the file is damaged."""


@dataclass(frozen=True)
class Lazy:
    """An array that a function makes."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    make: Callable[[], np.ndarray]

    @property
    def size(self) -> int:
        return int(np.prod(self.shape, dtype=np.int64))

    @property
    def nbytes(self) -> int:
        return self.size * self.dtype.itemsize

    def read(self) -> np.ndarray:
        array = self.make()
        if array.shape != self.shape or array.dtype != self.dtype:
            found = f"{array.dtype}{list(array.shape)}"
            raise ValueError(f"{self.dtype}{list(self.shape)} became {found}")
        return array


def check_float(name: str, dtype: np.dtype[Any], source: str) -> None:
    """Raises UserError for weights in a format that is no floating-point number."""
    if dtype not in FLOATS.values():
        known = ", ".join(FLOATS)
        raise UserError(f"{source}: {name!r} is {dtype}; weights have to be one of {known}")
