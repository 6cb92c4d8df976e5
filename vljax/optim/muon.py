"""Muon: matrices move by their orthogonalised momentum."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from einops import einsum, rearrange
from jaxtyping import Array, Float

from vljax.optim.adamw import AdamW
from vljax.optim.optimizer import Tree, not_below_one

COEFFICIENTS = (3.4445, -4.7750, 2.0315)
"""Of the quintic iteration (Jordan 2024): steep at 0, so that small singular values rise fast."""

_HIDDEN = {("embed",), ("mlp",), ("heads", "head_dim")}


@dataclass(frozen=True, kw_only=True)
class Muon(AdamW, name="muon"):
    """Orthogonalised momentum (Jordan 2024) for the matrices of blocks, AdamW for all the rest.

    Matrices are known by their logical axes: attention and MLP kernels, in blocks and in attention
    pooling, heads and head_dim being one dimension. Embeddings, norms, biases, scalars, patch
    kernels and the projections of heads are the rest: `b1`, `b2` and `epsilon` are theirs.
    """

    momentum: float = 0.95
    """Decay of the sum of gradients of a matrix."""
    nesterov: bool = True
    """Whether to look ahead (Sutskever et al. 2013)."""
    iterations: int = 5
    """Newton-Schulz iterations."""
    update_rms: float | None = 0.2
    """Root mean square of a matrix's step, of a learning rate of 1; 0.2 is about Adam's, so that
    both share learning rate and decay (Liu et al. 2025, eq. 4). None: sqrt(max(1, columns / rows))
    times the orthogonal matrix, as Jordan has it."""

    def problems(self) -> Iterator[tuple[str, str]]:
        yield from super().problems()
        yield from not_below_one(self, "momentum")
        if self.iterations < 1:
            yield "iterations", f"must be at least 1, not {self.iterations}"
        if self.update_rms is not None and self.update_rms <= 0:
            yield "update_rms", f"must be positive, or None, not {self.update_rms}"

    def direction(self, axes: Tree) -> optax.GradientTransformation:
        labels = jax.tree.map(_label, axes, is_leaf=lambda node: isinstance(node, tuple))
        trace = optax.trace(self.momentum, self.nesterov, self.moment_dtype)
        parts = {
            "matrix": optax.chain(trace, optax.stateless(lambda u, _: self._orthogonal(u, axes))),
            "rest": super().direction(axes),
        }
        return optax.partition(parts, labels)

    def _orthogonal(self, updates: Tree, axes: Tree) -> Tree:
        def move(update: Any, names: tuple[str, ...]) -> Any:
            # `partition` leaves a placeholder for what is not its part's.
            return update if isinstance(update, optax.MaskedNode) else self._move(update, names)

        return jax.tree.map(
            move, updates, axes, is_leaf=lambda node: isinstance(node, optax.MaskedNode)
        )

    def _move(self, update: Array, names: tuple[str, ...]) -> Array:
        matrix = matrix_of(names)
        assert matrix is not None
        sizes = dict(zip(names, update.shape, strict=True))
        stacked = rearrange(update, f"{matrix.unfolded} -> {matrix.folded}", **sizes)
        rows, columns = stacked.shape[1:]
        if self.update_rms is None:
            scale = max(1, columns / rows) ** 0.5
        else:
            # An orthogonal matrix has a root mean square of 1 / sqrt(max(rows, columns)).
            scale = self.update_rms * max(rows, columns) ** 0.5
        moved = scale * orthogonalized(stacked, self.iterations)
        return rearrange(moved, f"{matrix.folded} -> {matrix.unfolded}", **sizes)


class Matrix(NamedTuple):
    """How an array is a stack of matrices from inputs to outputs, in einops' notation."""

    unfolded: str
    folded: str


def matrix_of(names: tuple[str, ...]) -> Matrix | None:
    """The matrices that an array of these logical axes holds, one a layer; None if it holds none.

    `("layers", "embed", "heads", "head_dim")` are matrices of embed rows and heads x head_dim
    columns.
    """
    layers, dims = ("layers", names[1:]) if names[:1] == ("layers",) else ("1", names)
    for split in range(1, len(dims)):
        rows, columns = dims[:split], dims[split:]
        if rows in _HIDDEN and columns in _HIDDEN:
            unfolded = " ".join(names)
            return Matrix(unfolded, f"{layers} ({' '.join(rows)}) ({' '.join(columns)})")
    return None


def _label(names: tuple[str, ...]) -> str:
    return "rest" if matrix_of(names) is None else "matrix"


def orthogonalized(
    matrices: Float[Array, "layers rows columns"], iterations: int
) -> Float[Array, "layers rows columns"]:
    """Each matrix U S V^T with singular values near 1 (about 0.7 to 1.2) in place of S.

    Newton-Schulz iteration (Jordan 2024, github.com/KellerJordan/Muon): x -> a x + (b g + c g g) x
    with g = x x^T, from x of Frobenius norm 1.
    """
    if matrices.shape[1] > matrices.shape[2]:
        # The iteration commutes with transposing, and the smaller Gram matrix costs less.
        swapped = rearrange(matrices, "l r c -> l c r")
        return rearrange(orthogonalized(swapped, iterations), "l c r -> l r c")
    a, b, c = COEFFICIENTS
    norm = jnp.linalg.norm(matrices, axis=(1, 2), keepdims=True)
    x = matrices / (norm + 1e-7)
    for _ in range(iterations):
        gram = einsum(x, x, "l r c, l s c -> l r s")
        polynomial = b * gram + c * einsum(gram, gram, "l r s, l s t -> l r t")
        x = a * x + einsum(polynomial, x, "l r s, l s c -> l r c")
    return x
