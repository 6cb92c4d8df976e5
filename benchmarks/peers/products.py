"""Times the matrix products of a compiled program, each alone, by the fastest library for it."""

from __future__ import annotations

import importlib.util
import math
import statistics
import string
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from vljax.analysis.hlo import Module, executions


@dataclass(frozen=True)
class Product:
    """The shapes of two arrays, and their contracted and batch dimensions."""

    left: tuple[int, ...]
    right: tuple[int, ...]
    contracted: tuple[tuple[int, ...], tuple[int, ...]]
    batch: tuple[tuple[int, ...], tuple[int, ...]]

    @property
    def equation(self) -> str:
        """The einsum equation; the result has batch dimensions, then left, then right."""
        left = list(string.ascii_lowercase[: len(self.left)])
        right = list(string.ascii_uppercase[: len(self.right)])
        both = [*zip(*self.contracted, strict=True), *zip(*self.batch, strict=True)]
        for i, j in both:
            right[j] = left[i]
        kept = [left[i] for i in self.batch[0]]
        kept += [left[i] for i in range(len(left)) if all(i != k for k, _ in both)]
        kept += [right[j] for j in range(len(right)) if all(j != k for _, k in both)]
        return f"{''.join(left)},{''.join(right)}->{''.join(kept)}"

    @property
    def flops(self) -> int:
        """A multiplication and an addition for each product of two numbers."""
        shared = math.prod(self.right[i] for side in (self.contracted, self.batch) for i in side[1])
        return 2 * math.prod(self.left) * math.prod(self.right) // shared


def of(module: Module) -> Counter[Product]:
    """How often a program runs each product."""
    found: Counter[Product] = Counter()
    for name, times in executions(module).times.items():
        instructions = module.computations[name].instructions
        for i in instructions.values():
            if i.opcode == "dot":
                left, right = (instructions[operand].shapes[0].dims for operand in i.operands[:2])
                dims = {k: _numbers(i.attribute(k)) for k in _DIMENSIONS}
                contracted, batch = (tuple(dims[k] for k in pair) for pair in _PAIRS)
                found[Product(left, right, contracted, batch)] += times
    return found


_PAIRS = (
    ("lhs_contracting_dims", "rhs_contracting_dims"),
    ("lhs_batch_dims", "rhs_batch_dims"),
)
_DIMENSIONS = [name for pair in _PAIRS for name in pair]


def _numbers(text: str | None) -> tuple[int, ...]:
    return tuple(int(number) for number in text.split(",")) if text else ()


def measure(products: Counter[Product], runs: int) -> list[dict[str, Any]]:
    """Median seconds of each product by the fastest library; the libraries take turns."""
    result = []
    for product, times in products.items():
        rng = np.random.default_rng(0)
        arrays = [rng.standard_normal(shape, np.float32) for shape in (product.left, product.right)]
        calls = _libraries(product, arrays)
        seconds: dict[str, list[float]] = {library: [] for library in calls}
        for turn in range(runs + 1):
            for library, call in calls.items():
                begin = time.perf_counter()
                call()
                if turn:
                    seconds[library].append(time.perf_counter() - begin)
        medians = {library: statistics.median(values) for library, values in seconds.items()}
        fastest = min(medians, key=medians.__getitem__)
        shape = f"{list(product.left)} {list(product.right)}"
        entry = {"shape": shape, "equation": product.equation, "times": times}
        entry |= {"flops": product.flops, "library": fastest, "seconds": medians[fastest]}
        result.append(entry)
    return result


def _libraries(product: Product, arrays: list[np.ndarray]) -> dict[str, Callable[[], Any]]:
    import jax
    import jax.numpy as jnp

    on_device = [jnp.asarray(array) for array in arrays]
    compiled = jax.jit(lambda left, right: jnp.einsum(product.equation, left, right))
    calls: dict[str, Callable[[], Any]] = {"XLA": lambda: compiled(*on_device).block_until_ready()}
    if len(product.left) == len(product.right) == 2:
        left, right = arrays
        left = left.T if product.contracted[0] == (0,) else left
        right = right.T if product.contracted[1] == (1,) else right
        calls["NumPy"] = lambda: left @ right
    if importlib.util.find_spec("torch"):
        import torch

        tensors = [torch.from_numpy(array) for array in arrays]
        calls["PyTorch"] = lambda: torch.einsum(product.equation, *tensors)
    return calls
