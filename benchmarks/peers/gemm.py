"""The limit of this machine: the fastest float32 product of large matrices by any library."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

SHAPES = ((2048, 2048, 2048), (800, 768, 3072), (800, 3072, 768))
"""Rows, inputs and outputs: a large square, and two layers of an MLP."""


def flops(shape: tuple[int, ...]) -> int:
    """A multiplication and an addition for each product of two numbers."""
    rows, inputs, outputs = shape
    return 2 * rows * inputs * outputs


def workloads(
    library: str, to_device: Callable[[np.ndarray], Any], run: Callable[[Any, Any], Any]
) -> dict[str, Callable[[], Any]]:
    """A product of each shape; the right matrix is transposed, because XLA is fastest that way.

    Args:
      library: its name, which becomes part of the workloads' names.
      to_device: converts an array to the format of the library.
      run: multiplies the first matrix by the transposed second one and waits for the result.
    """
    rng = np.random.default_rng(0)
    made = {}
    for shape in SHAPES:
        rows, inputs, outputs = shape
        left, right = (
            rng.standard_normal(s, np.float32) for s in ((rows, inputs), (outputs, inputs))
        )
        pair = to_device(left), to_device(right)
        made[f"gemm {library} {rows}x{inputs}x{outputs}"] = lambda pair=pair: run(*pair)
    return made


def shape_of(workload: str) -> tuple[int, ...]:
    """The shape in the name of a workload."""
    return tuple(int(size) for size in workload.rsplit(" ", 1)[1].split("x"))
