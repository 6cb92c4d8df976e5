"""Optimizers that keep one moment: SGD and Lion."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import optax

from vljax.optim.optimizer import MomentType, Optimizer, Tree, decay_problems


@dataclass(frozen=True, kw_only=True)
class SGD(Optimizer, name="sgd"):
    """Gradient descent with momentum and decoupled weight decay.

    >>> SGD(learning_rate=0.1, momentum=0.9, nesterov=True).clip_norm
    1.0
    """

    momentum: float = 0.9
    """Decay of the sum of gradients; at 0, none is stored."""
    nesterov: bool = False
    """Whether to use Nesterov's momentum (Sutskever et al. 2013)."""
    moment_dtype: MomentType = None
    """Type that the sum is stored in; None: the type of the parameters."""

    def problems(self) -> Iterator[tuple[str, str]]:
        yield from super().problems()
        yield from decay_problems(self, "momentum")
        if self.nesterov and not self.momentum:
            yield "nesterov", "needs momentum; set it above 0"

    def direction(self, axes: Tree) -> optax.GradientTransformation:
        if not self.momentum:
            return optax.identity()
        return optax.trace(self.momentum, self.nesterov, self.moment_dtype)


@dataclass(frozen=True, kw_only=True)
class Lion(Optimizer, name="lion"):
    """Steps by the sign of an interpolated momentum (Chen et al. 2023, algorithm 2).

    Its steps are longer than Adam's. The paper uses a learning rate 3 to 10 times smaller, and a
    weight decay larger by the same factor.

    >>> Lion(learning_rate=1e-4, weight_decay=1.0).b2
    0.99
    """

    b1: float = 0.9
    """Weight of the momentum in the direction; the gradient has 1 - b1."""
    b2: float = 0.99
    """Decay of the momentum."""
    moment_dtype: MomentType = None
    """Type that the momentum is stored in; None: the type of the parameters."""

    def problems(self) -> Iterator[tuple[str, str]]:
        yield from super().problems()
        yield from decay_problems(self, "b1", "b2")

    def direction(self, axes: Tree) -> optax.GradientTransformation:
        return optax.scale_by_lion(self.b1, self.b2, self.moment_dtype)
