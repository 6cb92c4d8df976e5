"""FLOPs of a function, of its gradient and of Pallas kernels, counted from jaxprs."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
from jax.extend import core

from vljax.analysis.hlo import Kernel

Counted = tuple[int, list[bool]]
"""FLOPs, and for each output whether it depends on trained parameters."""


def training_flops(function: Callable[..., Any], trained: Any, *fixed: Any) -> int:
    """FLOPs of the matrix products and convolutions of a forward and backward pass.

    A product costs 2 m n k forward, and the same again backward for each of its two operands that
    depends on trained parameters. Recomputation does not count. A `while` loop counts as one
    iteration, a conditional as its most expensive branch.

    Args:
      function: called as `function(trained, *fixed)`.
      trained: the parameters that are updated: arrays or shapes.
      fixed: the other arguments.

    >>> x, w = jax.ShapeDtypeStruct((8, 4), "float32"), jax.ShapeDtypeStruct((4, 2), "float32")
    >>> training_flops(lambda w, x: x @ w, w, x)  # forward, and the gradient of w
    256
    """
    closed = jax.make_jaxpr(function)(trained, *fixed)
    count = len(jax.tree.leaves(trained))
    return _count(closed.jaxpr, [i < count for i in range(len(closed.jaxpr.invars))])[0]


def forward_flops(jaxpr: Any) -> int:
    """FLOPs of a jaxpr without a gradient, counted like `training_flops`."""
    return _count(jaxpr, [False] * len(jaxpr.invars))[0]


def _count(jaxpr: Any, active: Sequence[bool]) -> Counted:
    depends = dict(zip(jaxpr.invars, active, strict=True))

    def is_active(atom: Any) -> bool:
        return not isinstance(atom, core.Literal) and depends.get(atom, False)

    total = 0
    for equation in jaxpr.eqns:
        flops, outputs = _equation(equation, [is_active(atom) for atom in equation.invars])
        total += flops
        depends.update(zip(equation.outvars, outputs, strict=True))
    return total, [is_active(atom) for atom in jaxpr.outvars]


def _equation(equation: Any, active: list[bool]) -> Counted:
    name, params = equation.primitive.name, equation.params
    if name == "scan":
        return _scan(params, active)
    if name == "cond":
        branches = [_count(branch.jaxpr, active[1:]) for branch in params["branches"]]
        outputs = [any(column) for column in zip(*(out for _, out in branches), strict=True)]
        return max(flops for flops, _ in branches), outputs
    if name == "while":  # a jaxpr does not have its trip count
        skipped = params["cond_nconsts"]
        return _count(params["body_jaxpr"].jaxpr, active[skipped:])
    inner = next(
        (params[key] for key in ("jaxpr", "call_jaxpr", "fun_jaxpr") if key in params), None
    )
    if inner is not None:
        inner = getattr(inner, "jaxpr", inner)
        return _count(inner, active[: len(inner.invars)])
    depends = name != "stop_gradient" and any(active)
    return _forward(equation) * (1 + sum(active)), [depends] * len(equation.outvars)


def _scan(params: Any, active: list[bool]) -> Counted:
    """Repeats until the set of carries that depend on trained parameters is stable."""
    constants, carries = params["num_consts"], params["num_carry"]
    active = list(active)
    # Each round makes at least one more carry active, so this ends.
    while True:
        flops, outputs = _count(params["jaxpr"].jaxpr, active)
        carry = slice(constants, constants + carries)
        merged = [a or b for a, b in zip(active[carry], outputs[:carries], strict=True)]
        if merged == active[carry]:
            return params["length"] * flops, outputs
        active[carry] = merged


def _forward(equation: Any) -> int:
    name = equation.primitive.name
    if name == "dot_general":
        (contracted, _), _ = equation.params["dimension_numbers"]
        left = equation.invars[0].aval.shape
        reduced = math.prod(left[i] for i in contracted)
        return 2 * math.prod(equation.outvars[0].aval.shape) * reduced
    if name == "conv_general_dilated":
        return _convolution(equation)
    return 0


def _convolution(equation: Any) -> int:
    """FLOPs of a convolution, padding included."""
    kernel = equation.invars[1].aval.shape
    labels = equation.params["dimension_numbers"].rhs_spec
    taps = math.prod(kernel[i] for i in labels[1:])  # input features of a group, and space
    groups = equation.params["batch_group_count"]
    return 2 * math.prod(equation.outvars[0].aval.shape) * taps // groups


# --- Pallas kernels: HLO text does not show their FLOPs ---


def kernel_flops(jaxpr: Any) -> dict[Kernel, int]:
    """FLOPs of one call of every Pallas kernel in a jaxpr, on one device.

    They are the FLOPs of the kernel's body times the size of its grid. Blocks that a mask lets the
    kernel skip count as computed. A grid dimension of dynamic size counts as 1.
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
