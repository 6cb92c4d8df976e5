"""A model from its configuration: a graph of nodes as pure functions."""

from __future__ import annotations

import functools
import re
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax.linen import meta
from jaxtyping import Array, Float

from vljax.config import UserError, suggest
from vljax.models.compute import Call, Compute
from vljax.models.filters import StreamFilter, filter_name
from vljax.models.low_rank import LowRank, adapted_kernels, factor_axes, packed, with_factors
from vljax.models.node import (
    ATTENTION,
    Encoded,
    Encoder,
    Node,
    graph_problems,
    makers,
    plan,
    products_of,
    stream_of,
)
from vljax.models.parameters import STACK, leaves, unroll, with_axes

Batch = Mapping[str, Any]
Outputs = dict[str, Array]

EVALUATE = Call()
"""A forward pass without dropout."""


class Variables(NamedTuple):
    """All arrays of a model."""

    params: dict[str, Any]
    """Nested dicts of arrays that are optimized."""
    state: dict[str, Any]
    """Collections of arrays that are not optimized, such as batch statistics; often empty."""


class Apply(Protocol):
    """The forward pass of a model, or of a part of it."""

    def __call__(
        self,
        variables: Variables,
        batch: Batch,
        call: Call = EVALUATE,
        *,
        given: Mapping[str, Array] = {},
        want: Sequence[str] | None = None,
    ) -> tuple[Outputs, dict[str, Any]]:
        """Outputs by name, and the new state.

        Args:
          variables: parameters and state.
          batch: arrays by the name of their entry; entries that no node reads are ignored.
          call: whether to train, with which random key, and the index of each example.
          given: outputs that are not computed but taken from here. A stream is given by
            `STREAM/tokens` (with `/mask`, `/pooled`, `/positions` if they matter), or by
            `STREAM/pooled` alone.
          want: names of the outputs to compute, and nothing that they do not need; None for all
            that the batch and `given` suffice for. Learned scalars are always there.

        Raises:
          ValueError: for a wanted output that no node makes, or whose inputs are not there.
        """


@dataclass(frozen=True)
class Model:
    """A model as pure functions."""

    init: Callable[[Array, Batch], Variables]
    apply: Apply
    shared: frozenset[str]
    """The outputs without a batch axis, such as learned scalars."""
    if_wanted: frozenset[str]
    """The outputs that are made only if they are asked for by name, such as attention."""
    trace: Callable[[], tuple[Variables, dict[str, Any]]]
    """Finds `shapes` and `axes`."""

    @functools.cached_property
    def _traced(self) -> tuple[Variables, dict[str, Any]]:
        # One trace gives both. It waits until one of them is needed: to compute with variables
        # that are there needs neither.
        return self.trace()

    @property
    def axes(self) -> dict[str, Any]:
        """A tree like the parameters, with a tuple of logical axis names for each array."""
        return self._traced[1]

    @property
    def shapes(self) -> Variables:
        """Shapes and types of all variables, as `jax.ShapeDtypeStruct`; nothing is computed."""
        return self._traced[0]


@dataclass(frozen=True)
class ModelConfig:
    """The nodes of a model.

    >>> from vljax.models.heads import Embedding
    >>> from vljax.models.presets import text, vit
    >>> image = vit("S/16", image_size=224)
    >>> words = text("S", vocab_size=32_000, context_length=64)
    >>> config = ModelConfig({"image": image, "text": words, "embedding": Embedding(384)})
    >>> example_batch(config, 8)["image"].shape
    (8, 224, 224, 3)
    """

    nodes: dict[str, Node]
    """By a name that you choose. Parameters are stored under it; an encoder reads the batch entry
    with its name (`image`, `text`), unless it names another."""
    filters: dict[str, StreamFilter] = field(default_factory=dict)
    """By stream: what changes it before any node reads it, such as modality dropout."""

    def problems(self) -> Iterator[tuple[str, str]]:
        for name in self.nodes:
            if not name.isidentifier():
                yield "nodes", f"{name!r} is not a name; use letters, digits and _"
        for name, message in graph_problems(self.nodes):
            yield f"nodes.{name}", message
        yield from self._entry_problems()
        streams = [product for product in makers(self.nodes) if "/" not in product]
        for stream in self.filters:
            if stream not in streams:
                yield "filters", f"no node makes the stream {stream!r}{suggest(stream, streams)}"
            elif filter_name(stream) in self.nodes:
                yield "nodes", f"{filter_name(stream)!r} is the name of a filter; rename the node"

    def _entry_problems(self) -> Iterator[tuple[str, str]]:
        """Nodes that read the same entry of the batch in different shapes."""
        shapes: dict[str, tuple[str, tuple[int, ...]]] = {}
        for name, node in self.nodes.items():
            for entry, spec in node.example(name, 1).items():
                other, shape = shapes.setdefault(entry, (name, spec.shape))
                if shape != spec.shape:
                    sizes = f"{spec.shape[1:]}, and {other!r} in {shape[1:]}"
                    yield f"nodes.{name}", f"reads {entry!r} in the shape {sizes}; make them equal"

    @property
    def encoders(self) -> dict[str, Encoder]:
        """The nodes that encode batch entries, by name."""
        return {name: node for name, node in self.nodes.items() if isinstance(node, Encoder)}

    @property
    def heads(self) -> dict[str, Node]:
        """The nodes that make no streams, by name."""
        return {
            name: node
            for name, node in self.nodes.items()
            if all("/" in product for product in node.makes(name))
        }


class AssembledModule(nn.Module):
    """The whole model; it returns a flat dict of all useful intermediates."""

    config: ModelConfig
    compute: Compute
    scalars: Mapping[str, float]

    @nn.compact
    def __call__(
        self,
        batch: Batch,
        call: Call = EVALUATE,
        given: Mapping[str, Array] = {},
        want: Sequence[str] | None = None,
    ) -> Outputs:
        nodes = self.config.nodes
        outputs: Outputs = dict(given)
        products: dict[str, Any] = _given_streams(nodes, given)
        if want is not None:
            want = [name for name in want if name not in self.scalars]
        for name, asked in plan(nodes, batch, given, want):
            node = nodes[name]
            makes = products_of(node, name)
            needed = {stream for product in asked for stream in makes[product]}
            entries = (*node.example(name, 1), *node.optional_entries(name))
            inputs = {entry: batch[entry] for entry in entries if entry in batch}
            inputs |= {stream: products[stream] for stream in needed}
            attention = f"{name}/{ATTENTION}"
            of_node = replace(call, attention=call.attention or attention in asked)
            module = node.module(self.compute, name)
            try:
                made = node.run(module, name, inputs, of_node)
            except UserError as error:
                raise UserError(f"model.nodes.{name}: {error}") from error
            if attention in asked:
                made = {**made, attention: _attention(module.variables["intermediates"])}
            for product in asked:
                value = made[product]
                if product in self.config.filters:
                    own = self.config.filters[product].module(self.compute, filter_name(product))
                    value = own(value, call)
                products[product] = value
                outputs |= _flat(product, value)
        for name, initial in self.scalars.items():
            init = with_axes(nn.initializers.constant(initial))
            outputs[name] = self.param(name, init, (), self.compute.param_dtype)
        return outputs


def _attention(sown: Any) -> Float[Array, "batch blocks heads queries keys"]:
    """Attention weights of the blocks that a module sowed, in their order.

    Those of its cross-attentions; of its self-attentions if it has no cross-attention.
    """
    found = list(leaves(unroll(jax.tree.map(_only, sown, is_leaf=_is_sown))))
    found.sort(key=lambda each: _with_numbers("/".join(each[0])))
    crossing = [weights for keys, weights in found if "cross_attention" in keys]
    own = [weights for keys, weights in found if STACK in keys]
    return jnp.stack(crossing or own, axis=1)


def _with_numbers(path: str) -> list[str | int]:
    """A key of sorting by which `blocks/2` precedes `blocks/10`."""
    return [int(part) if part.isdecimal() else part for part in re.split(r"(\d+)", path)]


def _is_sown(node: Any) -> bool:
    return isinstance(node, tuple)


def _only(sown: tuple[Array, ...]) -> Array:
    (weights,) = sown
    return weights


def _flat(product: str, value: Encoded | Array) -> Outputs:
    if not isinstance(value, Encoded):
        return {product: value}
    return {f"{product}/{k}": v for k, v in value._asdict().items() if v is not None}


def _given_streams(nodes: Mapping[str, Node], given: Mapping[str, Array]) -> dict[str, Encoded]:
    """The streams among given outputs; they have no padding if no mask is given."""
    streams = {}
    for stream in {stream_of(name) for name in given} & set(makers(nodes)):
        fields: dict[str, Any] = {f: given.get(f"{stream}/{f}") for f in Encoded._fields}
        if fields["tokens"] is not None and fields["mask"] is None:
            fields["mask"] = jnp.ones(fields["tokens"].shape[:2], bool)
        streams[stream] = Encoded(**fields)
    return streams


def build(
    config: ModelConfig,
    compute: Compute,
    scalars: Mapping[str, float] | None = None,
    low_rank: LowRank | None = None,
) -> Model:
    """The model as pure functions.

    Args:
      config: the nodes.
      compute: number formats, kernels and sharding of activations.
      scalars: learned scalars that objectives need, with their initial values. They become
        top-level parameters, and outputs with the same name (`logit_scale`).
      low_rank: which kernels have low-rank factors, which are parameters too.

    Raises:
      UserError: if a pattern of `low_rank` matches nothing, or something else than a linear map.
    """
    module = AssembledModule(config, compute, dict(scalars or {}))

    def init(key: Array, batch: Batch) -> Variables:
        return _split(meta.unbox(module.init({"params": key}, batch)))

    def apply(
        variables: Variables,
        batch: Batch,
        call: Call = EVALUATE,
        *,
        given: Mapping[str, Array] = {},
        want: Sequence[str] | None = None,
    ) -> tuple[Outputs, dict[str, Any]]:
        outputs, state = module.apply(
            {"params": variables.params, **variables.state},
            batch,
            call,
            given,
            want,
            rngs=None if call.key is None else {"dropout": call.key},
            mutable=[*variables.state, *(["intermediates"] if _wants_attention(want) else [])],
        )
        return outputs, {name: tree for name, tree in state.items() if name in variables.state}

    def boxed() -> Any:
        return module.init({"params": jax.random.key(0)}, _zeros(example_batch(config)))

    shared = {output for name, node in config.nodes.items() for output in node.shared_outputs(name)}
    if_wanted = {o for name, node in config.nodes.items() for o in node.made_if_wanted(name)}
    shared = {*shared, *module.scalars}
    made = Model(init, apply, frozenset(shared), frozenset(if_wanted), lambda: _traced(boxed))
    return made if low_rank is None or not low_rank.used else _adapted(made, low_rank)


def _traced(boxed: Callable[[], Any]) -> tuple[Variables, dict[str, Any]]:
    """Shapes and axes of what `boxed` makes, by one trace."""
    traced = jax.eval_shape(boxed)
    return _split(meta.unbox(traced)), _axes(traced["params"])


def _adapted(model: Model, low_rank: LowRank) -> Model:
    """The model with low-rank factors among its parameters."""

    def kernels() -> dict[tuple[str, ...], int]:
        return adapted_kernels(low_rank, model.shapes.params, model.axes)

    def with_own(params: dict[str, Any], key: Array) -> dict[str, Any]:
        # A key of its own: the other parameters begin as they do without factors.
        own = jax.random.fold_in(key, zlib.crc32(b"low_rank"))
        return with_factors(params, model.axes, kernels(), low_rank.rank, own)

    def init(key: Array, batch: Batch) -> Variables:
        made = model.init(key, batch)
        return made._replace(params=with_own(made.params, key))

    def apply(
        variables: Variables,
        batch: Batch,
        call: Call = EVALUATE,
        *,
        given: Mapping[str, Array] = {},
        want: Sequence[str] | None = None,
    ) -> tuple[Outputs, dict[str, Any]]:
        params = packed(variables.params, low_rank.scale)
        return model.apply(variables._replace(params=params), batch, call, given=given, want=want)

    def trace() -> tuple[Variables, dict[str, Any]]:
        shapes = jax.eval_shape(with_own, model.shapes.params, jax.random.key(0))
        return model.shapes._replace(params=shapes), factor_axes(model.axes, kernels())

    return replace(model, init=init, apply=apply, trace=trace)


def _wants_attention(want: Sequence[str] | None) -> bool:
    return any(name.endswith(f"/{ATTENTION}") for name in want or ())


def example_batch(config: ModelConfig, batch_size: int = 1) -> dict[str, jax.ShapeDtypeStruct]:
    """Shapes and types of a batch with every entry that a node needs."""
    return {
        entry: spec
        for name, node in config.nodes.items()
        for entry, spec in node.example(name, batch_size).items()
    }


def _zeros(specs: Mapping[str, jax.ShapeDtypeStruct]) -> dict[str, Array]:
    return {name: jnp.zeros(spec.shape, spec.dtype) for name, spec in specs.items()}


def _split(collections: Mapping[str, Any]) -> Variables:
    params = collections["params"]
    return Variables(params, {k: v for k, v in collections.items() if k != "params"})


def _axes(boxed: Any) -> dict[str, Any]:
    def names(leaf: Any) -> tuple[str, ...]:
        if not isinstance(leaf, meta.AxisMetadata):
            raise TypeError("a parameter was made without logical axis names")
        return tuple(leaf.names)  # type: ignore[attr-defined]

    return jax.tree.map(names, boxed, is_leaf=lambda x: isinstance(x, meta.AxisMetadata))
