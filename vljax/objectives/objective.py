"""The Objective interface: outputs and a batch to a loss."""

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
    """After each step the value is put back into [low, high]."""
    high: float = math.inf


class Result(NamedTuple):
    """What an objective makes of a batch."""

    loss: Float[Array, ""]
    metrics: dict[str, Float[Array, ""]]
    state: dict[str, Any]
    """The model's new state, where the objective changes it."""


class Context:
    """The model as an objective sees it: forward passes of views of the batch, each computed once.

    A view named `masked` is the batch with the entries `masked/NAME` in place of `NAME`; the view
    without a name is the batch itself.

    Attributes:
      mesh: the devices that the batch is split over; None if there is one.

    Args:
      forward: from the name of a view and its batch to the model's outputs.
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
    """A view of a batch, see `Context`."""
    prefix = f"{view}/"
    changed = {k.removeprefix(prefix): v for k, v in batch.items() if k.startswith(prefix)}
    return {**batch, **changed} if view else batch


@dataclass(frozen=True, kw_only=True)
class Objective(Component, abc.ABC):
    """Kind of components that the model is trained on; the total loss is their weighted sum.

    An objective must leave out examples whose `valid` is False, also as negatives.
    """

    weight: float = 1.0
    """Factor of the loss in the total."""
    trains: str = ".*"
    """Pattern of the parameters that it updates; each distinct one has its own optimizer state."""

    def scalars(self) -> dict[str, Scalar]:
        """The learned scalars that it reads from the outputs, by name."""
        return {}

    def reads(self) -> tuple[str, ...]:
        """The outputs that it needs, so that a model without them is refused before any compile."""
        return ()

    def views(self) -> tuple[str, ...]:
        """The views of the batch whose outputs it asks for."""
        return ("",)

    @abc.abstractmethod
    def __call__(self, ctx: Context, batch: Batch, rng: Array) -> Result:
        """The loss of a batch."""
