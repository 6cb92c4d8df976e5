"""Arrays that are not in memory yet: their shape and data type, and a way to read them."""

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
"""The data types that weights may have."""


@runtime_checkable
class Tensor(Protocol):
    """An array that is read on request."""

    @property
    def shape(self) -> tuple[int, ...]: ...

    @property
    def dtype(self) -> np.dtype[Any]: ...

    def read(self) -> np.ndarray:
        """The array, read again at each call. Raises UserError if the file is damaged."""


@dataclass(frozen=True)
class Lazy:
    """An array that a function computes on request.

    >>> ones = Lazy((2, 3), np.dtype(np.float32), lambda: np.ones((2, 3), np.float32))
    >>> ones.nbytes, float(ones.read().sum())
    (24, 6.0)
    """

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    make: Callable[[], np.ndarray]
    """Returns an array of exactly this shape and data type."""

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
            raise ValueError(f"expected {self.dtype}{list(self.shape)}, got {found}")
        return array


def check_float(name: str, dtype: np.dtype[Any], source: str) -> None:
    """Raises UserError if weights have a data type that is not one of `FLOATS`."""
    if dtype not in FLOATS.values():
        known = ", ".join(FLOATS)
        raise UserError(f"{source}: {name!r} is {dtype}; weights have to be one of {known}")


def listed(names: list[str], shown: int = 6) -> str:
    """Names for a message: the first few, quoted, and how many more there are.

    >>> listed(["a", "b", "c"], shown=2)
    "'a', 'b' and 1 more"
    """
    more = f" and {len(names) - shown} more" if len(names) > shown else ""
    return ", ".join(repr(name) for name in names[:shown]) + more
