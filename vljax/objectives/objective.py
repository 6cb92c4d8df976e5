"""The interface of objectives: from the model's outputs and a batch to a loss."""

from __future__ import annotations

import abc
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from jax.sharding import Mesh
from jaxtyping import Array, Float

from vljax.config import Component

Batch = Mapping[str, Any]


class Scalar(NamedTuple):
    """A learned scalar that an objective needs, such as a temperature."""

    initial: float
    low: float = -math.inf
    """Lower limit; after each step the value is clipped to [low, high]."""
    high: float = math.inf
    """Upper limit."""


class Result(NamedTuple):
    """The loss of a batch, metrics, and changed state."""

    loss: Float[Array, ""]
    metrics: dict[str, Float[Array, ""]]
    """Scalars to log, as `OBJECTIVE/NAME`."""
    state: dict[str, Any]
    """Entries of the model's state that the objective changes."""


class Context:
    """Gives an objective the model's outputs for views of the batch; each is computed once.

    In the view `masked`, the entries `masked/NAME` of the batch take the place of `NAME`. The view
    "" is the batch itself.

    >>> import jax.numpy as jnp
    >>> batch = {"x": jnp.array(1), "masked/x": jnp.array(2)}
    >>> ctx = Context(lambda view, batch: {"y": 10 * batch["x"]}, batch)
    >>> ctx.outputs()["y"].item(), ctx.outputs("masked")["y"].item()
    (10, 20)

    Attributes:
      mesh: the devices that the batch is split over; None for one device.

    Args:
      forward: `(view, batch) -> outputs`, a forward pass of the model.
      batch: the whole batch.
    """

    def __init__(
        self,
        forward: Callable[[str, Batch], dict[str, Array]],
        batch: Batch,
        mesh: Mesh | None = None,
    ) -> None:
        self.mesh = mesh
        self._forward = forward
        self._batch = batch
        self._outputs: dict[str, dict[str, Array]] = {}

    def outputs(self, view: str = "") -> dict[str, Array]:
        """The model's outputs for a view of the batch."""
        if view not in self._outputs:
            self._outputs[view] = self._forward(view, view_of(self._batch, view))
        return self._outputs[view]


def view_of(batch: Batch, view: str) -> Batch:
    """The batch as a view has it; see `Context`."""
    prefix = f"{view}/"
    changed = {k.removeprefix(prefix): v for k, v in batch.items() if k.startswith(prefix)}
    return {**batch, **changed} if view else batch


@dataclass(frozen=True, kw_only=True)
class Objective(Component, abc.ABC):
    """Base of objectives; the total loss is their weighted sum.

    An objective must ignore examples whose `valid` is False, also as negatives. A new objective
    implements `__call__`, and names what it needs:

    >>> import jax, jax.numpy as jnp
    >>> @dataclass(frozen=True, kw_only=True)
    ... class EmbeddingNorm(Objective, name="embedding_norm"):
    ...     def reads(self):
    ...         return ("image/embedding",)
    ...     def __call__(self, ctx, batch, rng):
    ...         norms = jnp.linalg.norm(ctx.outputs()["image/embedding"], axis=1)
    ...         return Result(jnp.mean(norms, where=batch["valid"]), {}, {})
    >>> batch = {"valid": jnp.array([True, False])}
    >>> embeddings = {"image/embedding": jnp.array([[3.0, 4.0], [9.0, 9.0]])}
    >>> ctx = Context(lambda view, batch: embeddings, batch)
    >>> EmbeddingNorm()(ctx, batch, jax.random.key(0)).loss.item()
    5.0
    >>> del Objective.members["embedding_norm"]
    """

    weight: float = 1.0
    """Factor of this loss in the total loss."""
    trains: str = ".*"
    """Pattern of the parameters that it trains; each distinct pattern has an optimizer state."""

    def scalars(self) -> dict[str, Scalar]:
        """The learned scalars that it needs, by name; the model has them among its outputs."""
        return {}

    def reads(self) -> tuple[str, ...]:
        """Names of the outputs that it needs; a model without one is an error before compiling."""
        return ()

    def views(self) -> tuple[str, ...]:
        """Names of the views that it computes outputs of."""
        return ("",)

    @abc.abstractmethod
    def __call__(self, ctx: Context, batch: Batch, rng: Array) -> Result:
        """The loss of a batch."""
