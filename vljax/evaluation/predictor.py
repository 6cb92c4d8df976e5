"""Predictors: a model with its variables on a mesh, which computes outputs of batches."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import jax
import numpy as np
from jax.sharding import Mesh

from vljax.config import UserError, suggest
from vljax.models.assembly import Model, ModelConfig, Variables
from vljax.models.filters import zeros_of
from vljax.models.node import Encoded, makers, plan, stream_of
from vljax.parallel.rows import shard_array
from vljax.parallel.rules import batch_sharding, replicated

Batch = Mapping[str, Any]
"""Arrays by name: whole NumPy arrays of the host, or global JAX arrays on the devices."""


@runtime_checkable
class Predictor(Protocol):
    """A model with its variables bound, as evaluators see it; `ModelPredictor` implements it."""

    def run(
        self, want: Sequence[str], batch: Batch, *, streams: Mapping[str, Batch | None] = {}
    ) -> dict[str, np.ndarray]:
        """The wanted outputs of a batch, and nothing that they do not need.

        Args:
          want: names of outputs, such as `image/embedding` or `logit_scale`.
          batch: arrays by the name of their entry, with B rows. Entries that the outputs do not
            need are ignored. Arrays that every process has in full may have any number of rows;
            global arrays have the sharding of a training batch.
          streams: streams to replace: by that of another batch with as many rows, or for None by
            zeros, with the mask that it has.

        Returns:
          The outputs by name on the host of every process. They have B rows, unless they have no
          batch axis, such as learned scalars.

        Raises:
          UserError: for an output that no node makes, or a batch entry that is missing.
          ValueError: for batch entries with different numbers of rows.
        """
        ...


class Forward:
    """The forward pass of a model on a mesh, compiled once for each (wanted outputs, shapes).

    `bind` gives it variables. The programs do not depend on their values, so that predictors of
    other variables compile nothing.

    Args:
      model: the model.
      config: its nodes.
      mesh: the devices; `data` and `fsdp` split the rows of a batch.
      variables_at: the sharding of the variables: one for all, or a tree like them.
    """

    def __init__(self, model: Model, config: ModelConfig, mesh: Mesh, variables_at: Any) -> None:
        self._nodes, self._shared = config.nodes, model.shared
        made = makers(self._nodes)
        of_streams = {f"{s}/{f}" for s in made if "/" not in s for f in Encoded._fields}
        self._outputs = {name for name in made if "/" in name} | of_streams | model.shared
        self._scalars = model.shared - set(made)
        self._batch_at = batch_sharding(mesh)
        self._parts = mesh.shape["data"] * mesh.shape["fsdp"]

        def forward(
            variables: Variables,
            batch: dict[str, jax.Array],
            others: dict[str, dict[str, jax.Array]],
            want: tuple[str, ...],
            zeroed: tuple[str, ...],
        ) -> dict[str, jax.Array]:
            given: dict[str, jax.Array] = {}
            for name in (*others, *zeroed):
                made, _ = model.apply(variables, others.get(name, batch), want=[f"{name}/tokens"])
                own = {output: made[output] for output in made if stream_of(output) == name}
                given |= zeros_of(own) if name in zeroed else own
            outputs, _ = model.apply(variables, batch, given=given, want=want)
            for name in want:
                # Which of its optional fields a stream has is known from here on only.
                if name not in outputs:
                    raise UserError(f"no node makes {name!r}{suggest(name, outputs)}")
            return {name: outputs[name] for name in want}

        self._compiled = jax.jit(
            forward,
            static_argnums=(3, 4),
            in_shardings=(variables_at, self._batch_at, self._batch_at),
            out_shardings=replicated(mesh),
        )

    def bind(self, variables: Variables) -> ModelPredictor:
        """The predictor of these variables, which have the shardings of `variables_at`."""
        return ModelPredictor(self, variables)

    def begin(
        self,
        variables: Variables,
        want: Sequence[str],
        batch: Batch,
        streams: Mapping[str, Batch | None] = {},
    ) -> Callable[[], dict[str, np.ndarray]]:
        """Starts to compute, and returns a function that waits for the outputs of `Predictor.run`.

        Until it is called, the host may make the next batch.
        """
        for name in streams:
            if f"{name}/tokens" not in self._outputs:
                known = [o.removesuffix("/tokens") for o in self._outputs if o.endswith("/tokens")]
                raise UserError(f"no node makes the stream {name!r}{suggest(name, sorted(known))}")
        entries = {name: batch[name] for name in self._entries(want, batch)}
        others = {
            name: {entry: other[entry] for entry in self._entries([f"{name}/tokens"], other)}
            for name, other in streams.items()
            if other is not None
        }
        rows = {name: len(array) for name, array in entries.items()}
        rows |= {f"{n} of {s}": len(a) for s, other in others.items() for n, a in other.items()}
        if len(set(rows.values())) > 1:
            raise ValueError(f"batch entries with different numbers of rows: {rows}")
        placed = {name: self._placed(array) for name, array in entries.items()}
        # In one order, so that the same outputs in another order do not compile again.
        outputs = self._compiled(
            variables,
            placed,
            {s: {n: self._placed(a) for n, a in other.items()} for s, other in others.items()},
            tuple(sorted(set(want))),
            tuple(sorted(name for name, other in streams.items() if other is None)),
        )
        # A node may make several rows of each row of the batch.
        count = next(iter(rows.values()), 0)
        made = max(1, len(next(iter(placed.values())))) if placed else 1

        def wait() -> dict[str, np.ndarray]:
            found = {name: np.asarray(outputs[name]) for name in want}
            return {
                k: v if k in self._shared else v[: len(v) // made * count] for k, v in found.items()
            }

        return wait

    def _entries(self, want: Sequence[str], batch: Batch) -> list[str]:
        """The entries of the batch that the outputs need or can use."""
        needed = {name: tuple(node.example(name, 1)) for name, node in self._nodes.items()}
        optional = {name: node.optional_entries(name) for name, node in self._nodes.items()}
        every = {entry for of in (needed, optional) for names in of.values() for entry in names}
        for name in want:
            if name not in self._outputs:
                raise UserError(f"no node makes {name!r}{suggest(name, self._outputs)}")
        visits = plan(self._nodes, every, want=[w for w in want if w not in self._scalars])
        used: dict[str, None] = {}
        for name in (visit.node for visit in visits):
            for entry in (*needed[name], *optional[name]):
                if entry in batch:
                    used[entry] = None
                elif entry not in optional[name]:
                    raise UserError(
                        f"{', '.join(want)}: the node {name!r} needs the batch entry {entry!r},"
                        f" which is not there{suggest(entry, batch)}"
                    )
        return list(used)

    def _placed(self, array: Any) -> jax.Array:
        """The rows on the devices; those of a host array padded to a multiple of their parts."""
        at = self._batch_at
        if isinstance(array, jax.Array) and array.sharding.is_equivalent_to(at, array.ndim):
            return array
        rows = np.asarray(array)
        if missing := -len(rows) % self._parts:
            # Padding repeats the last row: one without any token could divide by zero in the model.
            rows = np.concatenate([rows, np.repeat(rows[-1:], missing, axis=0)])
        return shard_array(rows, at)


@dataclass(frozen=True)
class ModelPredictor:
    """A model with its variables on a mesh; a `Predictor`.

    >>> import jax.numpy as jnp
    >>> from vljax.models.assembly import build
    >>> from vljax.models.compute import Compute
    >>> from vljax.models.encoders import TextTransformer
    >>> from vljax.models.heads import Embedding
    >>> from vljax.parallel.mesh import MeshConfig, make_mesh
    >>> sizes = {"width": 8, "depth": 1, "heads": 1, "mlp_dim": 8}
    >>> text = TextTransformer(vocab_size=9, context_length=4, pooling="mean", **sizes)
    >>> config = ModelConfig({"text": text, "embedding": Embedding(3, {"text": "linear"})})
    >>> model, mesh = build(config, Compute()), make_mesh(MeshConfig())
    >>> batch = {"text": np.ones((5, 4), np.int32), "text_mask": np.ones((5, 4), bool)}
    >>> init = jax.jit(model.init, out_shardings=replicated(mesh))
    >>> variables = init(jax.random.key(0), batch)
    >>> predictor = Forward(model, config, mesh, replicated(mesh)).bind(variables)
    >>> predictor.run(["text/embedding"], batch)["text/embedding"].shape
    (5, 3)
    >>> predictor.run(["text/embeding"], batch)
    Traceback (most recent call last):
    vljax.config.UserError: no node makes 'text/embeding'; did you mean 'text/embedding'?
    """

    forward: Forward
    """The compiled programs."""
    variables: Variables
    """The parameters and state that they compute with."""

    def run(
        self, want: Sequence[str], batch: Batch, *, streams: Mapping[str, Batch | None] = {}
    ) -> dict[str, np.ndarray]:
        """See `Predictor.run`."""
        return self.begin(want, batch, streams)()

    def begin(
        self, want: Sequence[str], batch: Batch, streams: Mapping[str, Batch | None] = {}
    ) -> Callable[[], dict[str, np.ndarray]]:
        """See `Forward.begin`."""
        return self.forward.begin(self.variables, want, batch, streams)


@dataclass
class CountingPredictor:
    """A predictor that reports how many rows it has computed.

    >>> class Zeros:
    ...     def run(self, want, batch):
    ...         return {name: np.zeros((len(batch["text"]), 2)) for name in want}
    >>> counting = CountingPredictor(Zeros(), 5, lambda done, total: print(done, "of", total))
    >>> for rows in (3, 3):
    ...     _ = counting.run(["text/embedding"], {"text": np.zeros((rows, 4))})
    3 of 5
    5 of 5
    """

    predictor: Predictor
    total: int
    """The number of rows to compute, without those that fill up batches."""
    report: Callable[[int, int], None]
    """Called after each batch with the number of computed rows, and the total."""
    done: int = 0

    def run(
        self, want: Sequence[str], batch: Batch, *, streams: Mapping[str, Batch | None] = {}
    ) -> dict[str, np.ndarray]:
        """See `Predictor.run`."""
        # Without streams, any predictor will do that computes outputs of batches.
        more = {"streams": streams} if streams else {}
        outputs = self.predictor.run(want, batch, **more)
        self.add(len(outputs[want[0]]))
        return outputs

    def add(self, rows: int) -> None:
        """Counts rows that are computed, or need not be."""
        self.done += rows
        self.report(min(self.done, self.total), self.total)
