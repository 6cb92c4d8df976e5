"""The interface of objectives: from the model's outputs and a batch to a loss."""

from __future__ import annotations

import abc
import inspect
import math
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from vljax.config import Component

Batch = Mapping[str, Any]

View = Callable[[Batch, Array], Batch]
"""From a batch and a random key for each row to the entries that the view replaces or adds."""

Of = Literal["model", "average"]
"""Whose parameters a forward pass uses: those that are trained, or their moving average (EMA)."""


class Scalar(NamedTuple):
    """A learned scalar that an objective needs, such as a temperature."""

    initial: float
    low: float = -math.inf
    """Lower limit; after each step the value is clipped to [low, high]."""
    high: float = math.inf
    """Upper limit."""


class Kept(NamedTuple):
    """An array that an objective keeps from step to step, such as a queue of embeddings."""

    shape: tuple[int, ...]
    axes: tuple[str, ...]
    """Logical names of its axes, which say how it is sharded; "none" for one that is not."""
    dtype: DTypeLike = jnp.float32
    initial: float = 0.0
    """Value of all its elements before the first step."""


class Result(NamedTuple):
    """The loss of a batch, metrics, and new values of what the objective keeps."""

    loss: Float[Array, ""]
    metrics: dict[str, Float[Array, ""]]
    """Scalars to log, as `OBJECTIVE/NAME`."""
    state: dict[str, Array] | None = None
    """New values of arrays that `Objective.state` declares; the others stay as they are."""


@runtime_checkable
class Forward(Protocol):
    """A forward pass of the model, as the trainer makes it."""

    def __call__(
        self, batch: Batch, view: str, of: Of, given: Mapping[str, Array], want: Sequence[str]
    ) -> dict[str, Array]:
        """At least the wanted outputs.

        Args:
          batch: the whole batch as the view has it.
          view: name of the view; "" for the batch itself. Each view has dropout masks of its own.
          of: whose parameters to use.
          given: outputs that are not computed but taken from here; rows of their own number.
          want: names of the outputs.
        """


class Context:
    """Runs the model for an objective; a pass is made once, however often it is asked for.

    The gradient of what is done with the outputs reaches the parameters, whether the batch is
    computed at once or in parts (`Run.accumulate`).

    >>> forward = lambda batch, view, of, given, want: {"y": 10 * batch["x"]}
    >>> def doubled(batch, keys):
    ...     return {"x": 2 * batch["x"]}
    >>> ctx = Context(forward, {"x": jnp.array([1])})
    >>> ctx.run(["y"])["y"].item(), ctx.run(["y"], view=doubled)["y"].item()
    (10, 20)

    Attributes:
      mesh: the devices that the batch is split over; None for one device.
      state: the arrays that the objective keeps, by name (`Objective.state`).

    Args:
      forward: a forward pass of the model.
      batch: the whole batch.
      mesh: see above.
      name: of the objective; views of different objectives draw different random numbers.
      key: random key of the objective at this step.
      state: see above.
      shared: passes that were made, to be shared by the contexts of several objectives.
    """

    def __init__(
        self,
        forward: Forward,
        batch: Batch,
        mesh: Mesh | None = None,
        *,
        name: str = "",
        key: Array | None = None,
        state: Mapping[str, Array] | None = None,
        shared: dict[tuple[str, Of], dict[str, Array]] | None = None,
    ) -> None:
        self.mesh = mesh
        self.state = state or {}
        self._forward = forward
        self._batch = batch
        self._name = name
        self._key = jax.random.key(0) if key is None else key
        self._outputs = {} if shared is None else shared
        self._views: dict[str, Batch] = {"": batch}

    def run(
        self,
        want: Sequence[str],
        *,
        given: Mapping[str, Array] | None = None,
        view: View | None = None,
        of: Of = "model",
    ) -> dict[str, Array]:
        """Outputs of the model, as global arrays of the whole batch.

        Args:
          want: names of the outputs to compute.
          given: outputs that are not computed but taken from here, such as tokens that were mined
            or masked. Their number of rows may differ from the batch's; then no other entry of the
            batch may be needed. Gradients flow through them too.
          view: a function that changes the batch first, such as masking words. Within an objective
            it is known by its name.
          of: "model", or "average" for the EMA parameters, without dropout and without gradient.

        Raises:
          ValueError: for an output that no node makes, or whose inputs are not there.
        """
        name, batch = self._viewed(view)
        if given:
            return self._forward(batch, name, of, dict(given), want)
        made = self._outputs.setdefault((name, of), {})
        if any(output not in made for output in want):
            made |= self._forward(batch, name, of, {}, want)
        return made

    def row_keys(self, purpose: str) -> Array:
        """A random key for each row of the batch, which does not depend on the other rows.

        Args:
          purpose: different purposes have different keys.
        """
        key = jax.random.fold_in(self._key, zlib.crc32(purpose.encode()))
        rows = jnp.arange(len(next(iter(self._batch.values()))))
        return jax.vmap(lambda row: jax.random.fold_in(key, row))(rows)

    def _viewed(self, view: View | None) -> tuple[str, Batch]:
        if view is None:
            return "", self._batch
        name = f"{self._name}/{inspect.unwrap(view).__name__}"
        if name not in self._views:
            self._views[name] = {**self._batch, **view(self._batch, self.row_keys(name))}
        return name, self._views[name]


@dataclass(frozen=True, kw_only=True)
class Objective(Component, abc.ABC):
    """Base of objectives; the total loss is their weighted sum.

    An objective must ignore examples whose `valid` is False, also as negatives. A new objective
    implements `__call__`, and names what it needs:

    >>> @dataclass(frozen=True, kw_only=True)
    ... class EmbeddingNorm(Objective, name="embedding_norm"):
    ...     def reads(self):
    ...         return ("image/embedding",)
    ...     def __call__(self, ctx, batch, key):
    ...         norms = jnp.linalg.norm(ctx.run(self.reads())["image/embedding"], axis=1)
    ...         return Result(jnp.mean(norms, where=batch["valid"]), {})
    >>> batch = {"valid": jnp.array([True, False])}
    >>> embeddings = {"image/embedding": jnp.array([[3.0, 4.0], [9.0, 9.0]])}
    >>> ctx = Context(lambda *pass_: embeddings, batch)
    >>> EmbeddingNorm()(ctx, batch, jax.random.key(0)).loss.item()
    5.0
    >>> del Objective.members["embedding_norm"]
    """

    weight: float = 1.0
    """Factor of this loss in the total loss."""
    trains: tuple[str, ...] = field(default=())
    """Names of the groups of parameters (`Run.groups`) that it trains; empty for all of them."""

    def scalars(self) -> dict[str, Scalar]:
        """The learned scalars that it needs, by name; the model has them among its outputs."""
        return {}

    def reads(self) -> tuple[str, ...]:
        """Names of the outputs that it needs; a model without one is an error before compiling."""
        return ()

    def batch_entries(self) -> tuple[str, ...]:
        """Names of the batch entries that it needs, apart from those that the model reads."""
        return ()

    def state(self) -> dict[str, Kept]:
        """The arrays that it keeps from step to step, by name. Checkpoints store them."""
        return {}

    def check(
        self, outputs: Mapping[str, jax.ShapeDtypeStruct], batch: Mapping[str, jax.ShapeDtypeStruct]
    ) -> Iterator[tuple[str, str]]:
        """What does not fit the model and the data: pairs of a field and a message.

        Args:
          outputs: shapes and types of the model's outputs.
          batch: those of the batch that they are for.
        """
        yield from ()

    @abc.abstractmethod
    def __call__(self, ctx: Context, batch: Batch, key: Array) -> Result:
        """The loss of a batch.

        Args:
          ctx: runs the model.
          batch: the whole batch.
          key: random key of this objective at this step; it depends on the objective's name.
        """
