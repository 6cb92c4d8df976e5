"""AdamW."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import optax

from vljax.optim.optimizer import MomentType, Optimizer, Tree, decay_problems


@dataclass(frozen=True, kw_only=True)
class AdamW(Optimizer, name="adamw"):
    """Adam with decoupled weight decay (Loshchilov & Hutter 2019).

    >>> optimizer = AdamW(learning_rate=5e-4, weight_decay=0.2, b2=0.98, epsilon=1e-6)
    >>> list(optimizer.problems())
    []
    """

    b1: float = 0.9
    """Decay of the mean of gradients."""
    b2: float = 0.999
    """Decay of the mean of their squares."""
    epsilon: float = 1e-8
    """Added to the root of the mean square."""
    moment_dtype: MomentType = None
    """Type that the mean of gradients is stored in; None: the type of the parameters."""

    def problems(self) -> Iterator[tuple[str, str]]:
        yield from super().problems()
        yield from decay_problems(self, "b1", "b2")
        if self.epsilon <= 0:
            yield "epsilon", f"must be positive, not {self.epsilon}"

    def direction(self, axes: Tree) -> optax.GradientTransformation:
        return optax.scale_by_adam(self.b1, self.b2, self.epsilon, mu_dtype=self.moment_dtype)
