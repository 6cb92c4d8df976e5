"""Optimizers with one moment: SGD and Lion."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import optax

from vljax.optim.optimizer import MomentType, Optimizer, Tree, not_below_one


@dataclass(frozen=True, kw_only=True)
class SGD(Optimizer, name="sgd"):
    """Gradient descent with momentum; the weight decay is decoupled here too."""

    momentum: float = 0.9
    """Decay of the sum of gradients; without it (0) none is stored."""
    nesterov: bool = False
    """Whether to look ahead (Sutskever et al. 2013)."""
    moment_dtype: MomentType = None
    """Type that the sum is stored in; None: that of the parameters."""

    def problems(self) -> Iterator[tuple[str, str]]:
        yield from super().problems()
        yield from not_below_one(self, "momentum")
        if self.nesterov and not self.momentum:
            yield "nesterov", "needs momentum; set it above 0"

    def direction(self, axes: Tree) -> optax.GradientTransformation:
        if not self.momentum:
            return optax.identity()
        return optax.trace(self.momentum, self.nesterov, self.moment_dtype)


@dataclass(frozen=True, kw_only=True)
class Lion(Optimizer, name="lion"):
    """The sign of an interpolated momentum (Chen et al. 2023, algorithm 2).

    Its steps are longer than Adam's: the paper takes a learning rate 3 to 10 times smaller and a
    weight decay as many times larger.
    """

    b1: float = 0.9
    """Share of the momentum, against the gradient, in the direction."""
    b2: float = 0.99
    """Decay of the momentum."""
    moment_dtype: MomentType = None
    """Type that the momentum is stored in; None: that of the parameters."""

    def problems(self) -> Iterator[tuple[str, str]]:
        yield from super().problems()
        yield from not_below_one(self, "b1", "b2")

    def direction(self, axes: Tree) -> optax.GradientTransformation:
        return optax.scale_by_lion(self.b1, self.b2, self.moment_dtype)
