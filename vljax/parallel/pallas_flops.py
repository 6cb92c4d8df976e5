"""FLOPs of Pallas kernels, from what JAX traces: the compiled text does not tell them."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

from vljax.parallel.hlo import Kernel
from vljax.parallel.jaxpr_flops import forward_flops


def kernel_flops(jaxpr: Any) -> dict[Kernel, int]:
    """FLOPs of one call of every kernel in a traced program, on one device.

    The products of the kernel times the size of its grid: blocks that a mask lets the kernel skip
    count as computed. A grid whose size is not known before it runs counts as one.
    """
    found: dict[Kernel, int] = {}
    for equation in _kernels(jaxpr):
        params = equation.params
        grid = params["grid_mapping"].grid
        blocks = math.prod(size for size in grid if isinstance(size, int))
        results = tuple(tuple(variable.aval.shape) for variable in equation.outvars)
        name = params["name"] or params["jaxpr"].debug_info.func_name
        found[name, results] = blocks * forward_flops(params["jaxpr"])
    return found


def _kernels(jaxpr: Any) -> Iterator[Any]:
    for equation in jaxpr.eqns:
        if equation.primitive.name == "pallas_call":
            yield equation
            continue
        for value in equation.params.values():
            for inner in value if isinstance(value, tuple | list) else (value,):
                inner = getattr(inner, "jaxpr", inner)
                if hasattr(inner, "eqns"):
                    yield from _kernels(inner)
