"""Muon: the momentum of a matrix is orthogonalized.

`optax.contrib.muon` orthogonalizes and scales. It gets beta = 0 and no Nesterov momentum, and keeps
no state from step to step, because two of its parts are not what the papers and `tests/optim` ask:

- Its Nesterov momentum corrects the bias of the mean and of the gradient by different powers of
  beta. So its first directions differ from Jordan's by far more than rounding (5 % of their norm in
  step 2, with a momentum of 0.8). `optax.trace` is Jordan's momentum.
- With `nesterov`, its Adam for all other parameters becomes NAdam.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import jax
import optax
from optax.contrib import MuonDimensionNumbers

from vljax.optim.adamw import AdamW
from vljax.optim.optimizer import Tree, decay_problems

_HIDDEN = {("embed",), ("mlp",), ("heads", "head_dim")}
"""The logical axes that are one side of a matrix."""


@dataclass(frozen=True, kw_only=True)
class Muon(AdamW, name="muon"):
    """Orthogonalized momentum (Jordan 2024) for the matrices of blocks, AdamW for all else.

    The matrices are found by their logical axes: attention and MLP kernels, in blocks and in
    attention pooling, with heads and head_dim as one dimension. Embeddings, norms, biases, scalars,
    patch kernels and the projections of heads are trained by AdamW with `b1`, `b2` and `epsilon`.

    >>> optimizer = Muon(learning_rate=1e-3, weight_decay=0.1)
    >>> axes = {"kernel": ("embed", "mlp"), "bias": ("mlp",)}
    >>> direction = optimizer.direction(axes)  # an optax.GradientTransformation
    """

    momentum: float = 0.95
    """Decay of the sum of gradients of a matrix."""
    nesterov: bool = True
    """Whether to use Nesterov's momentum (Sutskever et al. 2013)."""
    iterations: int = 5
    """Number of Newton-Schulz iterations."""
    update_rms: float | None = 0.2
    """Root mean square of a matrix's direction. 0.2 is about Adam's, so that both can use the same
    learning rate and decay (Liu et al. 2025, eq. 4). None: the orthogonal matrix times
    sqrt(max(1, columns / rows)), as in Jordan's code."""

    def problems(self) -> Iterator[tuple[str, str]]:
        yield from super().problems()
        yield from decay_problems(self, "momentum")
        if self.iterations < 1:
            yield "iterations", f"must be at least 1, not {self.iterations}"
        if self.update_rms is not None and self.update_rms <= 0:
            yield "update_rms", f"must be positive, or None, not {self.update_rms}"

    def direction(self, axes: Tree) -> optax.GradientTransformation:
        by_axes = lambda function: jax.tree.map(  # noqa: E731
            function, axes, is_leaf=lambda node: isinstance(node, tuple)
        )
        # The coefficients of the quintic iteration are Jordan's by default: (3.4445, -4.7750,
        # 2.0315), steep at 0, so that small singular values rise fast.
        muon = optax.contrib.muon(
            learning_rate=-1.0,  # a direction, not a step
            ns_steps=self.iterations,
            beta=0.0,
            nesterov=False,
            muon_weight_dimension_numbers=by_axes(matrix_of),
            consistent_rms=self.update_rms,
        )

        def orthogonalize(momentum: Any, _: Any) -> Any:
            # The state is made anew and dropped, so that it costs no memory.
            return muon.update(momentum, muon.init(momentum), momentum)[0]

        trace = optax.trace(self.momentum, self.nesterov, self.moment_dtype)
        return optax.partition(
            {
                "matrix": optax.chain(trace, optax.stateless(orthogonalize)),
                "rest": super().direction(axes),
            },
            by_axes(lambda names: "rest" if matrix_of(names) is None else "matrix"),
        )


def matrix_of(names: tuple[str, ...]) -> MuonDimensionNumbers | None:
    """The rows and columns of an array with these logical axes; None if it is not a matrix.

    Scanned layers are matrices of their own.

    >>> matrix_of(("layers", "embed", "heads", "head_dim"))
    MuonDimensionNumbers(reduction_axis=(1,), output_axis=(2, 3))
    """
    first = 1 if names[:1] == ("layers",) else 0
    for split in range(first + 1, len(names)):
        if names[first:split] in _HIDDEN and names[split:] in _HIDDEN:
            rows, columns = range(first, split), range(split, len(names))
            return MuonDimensionNumbers(tuple(rows), tuple(columns))
    return None
