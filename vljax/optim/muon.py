"""Muon: the momentum of a matrix is orthogonalized.

Why not `optax.contrib.muon` (optax 0.2.8):

- Its Nesterov momentum corrects the bias of the mean and of the gradient by different powers of
  beta. So its directions differ from Jordan's by far more than rounding; `tests/optim/test_muon.py`
  shows it. `optax.trace` is Jordan's momentum.
- With `nesterov`, its Adam for all other parameters becomes NAdam.
- With beta = 0, behind `optax.trace`, it gives our directions. But then the quickstart's step
  accessed 6.4 % more bytes on CPU in a trial (by XLA's cost analysis).
"""

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
from vljax.optim.optimizer import Tree, decay_problems

COEFFICIENTS = (3.4445, -4.7750, 2.0315)
"""Of the quintic iteration (Jordan 2024): steep at 0, so that small singular values grow fast."""

_HIDDEN = {("embed",), ("mlp",), ("heads", "head_dim")}
"""The logical axes that are one side of a matrix."""
_CONVOLUTION = (("patch", "patch", "conv_in"), ("conv_out",))
"""The sides of the kernel of a convolution within a network: a matrix from all that an output pixel
sees, as in Jordan's code."""


@dataclass(frozen=True, kw_only=True)
class Muon(AdamW, name="muon"):
    """Orthogonalized momentum (Jordan 2024) for the matrices of blocks, AdamW for all else.

    The matrices are found by their logical axes: attention and MLP kernels, in blocks and in
    attention pooling, with heads and head_dim as one dimension, and kernels of convolutions that
    are not depthwise. Embeddings, norms, biases, scalars, patch kernels and the projections of
    heads are trained by AdamW with `b1`, `b2` and `epsilon`.

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
        labels = jax.tree.map(_label, axes, is_leaf=lambda node: isinstance(node, tuple))
        trace = optax.trace(self.momentum, self.nesterov, self.moment_dtype)
        parts = {
            "matrix": optax.chain(trace, optax.stateless(lambda u, _: self._orthogonal(u, axes))),
            "rest": super().direction(axes),
        }
        return optax.partition(parts, labels)

    def _orthogonal(self, updates: Tree, axes: Tree) -> Tree:
        def move(update: Any, names: tuple[str, ...]) -> Any:
            # `partition` leaves a placeholder where a parameter is not in this part.
            return update if isinstance(update, optax.MaskedNode) else self._move(update, names)

        return jax.tree.map(
            move, updates, axes, is_leaf=lambda node: isinstance(node, optax.MaskedNode)
        )

    def _move(self, update: Array, names: tuple[str, ...]) -> Array:
        matrix = matrix_of(names)
        assert matrix is not None
        sizes = dict(zip(matrix.unfolded.split(), update.shape, strict=True))
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
    """How an array becomes a stack of matrices `[layers, rows, columns]`, in einops' notation."""

    unfolded: str
    folded: str


def matrix_of(names: tuple[str, ...]) -> Matrix | None:
    """The matrices in an array with these logical axes, one per layer; None if it is not a matrix.

    >>> matrix_of(("layers", "embed", "heads", "head_dim")).folded
    'layers (embed) (heads head_dim)'
    """
    layers, dims = ("layers", names[1:]) if names[:1] == ("layers",) else ("1", names)
    for split in range(1, len(dims)):
        rows, columns = dims[:split], dims[split:]
        if (rows in _HIDDEN and columns in _HIDDEN) or (rows, columns) == _CONVOLUTION:
            # einops wants names that differ; a kernel has two axes of the name patch.
            unique = [f"{name}_{i}" if name == "patch" else name for i, name in enumerate(names)]
            left, right = " ".join(unique[-len(dims) :][:split]), " ".join(unique[-len(columns) :])
            return Matrix(" ".join(unique), f"{layers} ({left}) ({right})")
    return None


def _label(names: tuple[str, ...]) -> str:
    return "rest" if matrix_of(names) is None else "matrix"


def orthogonalized(
    matrices: Float[Array, "layers rows columns"], iterations: int
) -> Float[Array, "layers rows columns"]:
    """Each matrix U S V^T with S replaced by singular values near 1 (about 0.7 to 1.2).

    Newton-Schulz iteration (Jordan 2024, github.com/KellerJordan/Muon): x -> a x + (b g + c g g) x
    with g = x x^T, from x of Frobenius norm 1.
    """
    if matrices.shape[1] > matrices.shape[2]:
        # The iteration commutes with transposition, and the smaller Gram matrix costs less.
        swapped = rearrange(matrices, "l r c -> l c r")
        return rearrange(orthogonalized(swapped, iterations), "l c r -> l r c")
    a, b, c = COEFFICIENTS
    norm = jnp.linalg.norm(matrices, axis=(1, 2), keepdims=True)
    x = matrices / (norm + 1e-7)
    # Unrolled: as a loop of the compiler it compiles sooner, but a step takes longer.
    for _ in range(iterations):
        gram = einsum(x, x, "l r c, l s c -> l r s")
        polynomial = b * gram + c * einsum(gram, gram, "l r s, l s t -> l r t")
        x = a * x + einsum(polynomial, x, "l r s, l s c -> l r c")
    return x
