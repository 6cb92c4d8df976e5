"""The Node interface: a part of a model, from named inputs to named outputs."""

from __future__ import annotations

import abc
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import jax
from flax import linen as nn
from jaxtyping import Array, Bool, Float

from vljax.config import Component, suggest
from vljax.models.compute import Call, Compute


class Encoded(NamedTuple):
    """A stream: tokens that other nodes can read."""

    tokens: Float[Array, "batch length embed"]
    mask: Bool[Array, "batch length"]
    """False for padding."""
    pooled: Float[Array, "batch embed"] | None = None
    positions: Float[Array, "batch length 2"] | None = None
    """Centres of image tokens as (y, x) in [0, 1]; -1 for tokens without a position."""


Inputs = Mapping[str, Any]
"""What a node reads: arrays by the name of their batch entry, `Encoded` by the name of a stream."""
Products = dict[str, Any]
"""What a node makes: `Encoded` by the name of the stream, arrays by the name of the output."""


class Node(Component, abc.ABC):
    """Base class of the parts of a model: encoders, fusions, decoders and heads.

    A model is a dict of nodes that form an acyclic graph. A node reads entries of the batch and
    streams of other nodes. It makes streams and outputs. A new one implements `module`, `makes`,
    and whichever of `streams_read` and `example` says what it reads:

    >>> import jax.numpy as jnp
    >>> @dataclass(frozen=True)
    ... class Length(Node, name="length"):
    ...     stream: str = "text"
    ...     def module(self, compute, name):
    ...         return LengthModule(self, name=name)
    ...     def makes(self, name):
    ...         return {f"{name}/tokens": (self.stream,)}
    >>> class LengthModule(nn.Module):
    ...     config: Length
    ...     def __call__(self, inputs, call):
    ...         return {f"{self.name}/tokens": jnp.sum(inputs[self.config.stream].mask, axis=1)}
    >>> Length("question").streams_read()
    ('question',)
    >>> del Node.members["length"]
    """

    @abc.abstractmethod
    def module(self, compute: Compute, name: str) -> nn.Module:
        """The Flax module; its parameters are stored under `name`. `run` says how it is called."""

    @abc.abstractmethod
    def makes(self, name: str) -> Mapping[str, tuple[str, ...]]:
        """What it makes under that name, with the streams that each needs.

        Streams have names without "/", outputs have names with one: `{"fusion": ("image", "text")}`
        or `{"answer/logits": ("fusion",)}`.
        """

    def streams_read(self) -> tuple[str, ...]:
        """The names of the streams that it reads, here or there."""
        return tuple(dict.fromkeys(s for needs in self.makes("").values() for s in needs))

    def example(self, name: str, batch_size: int) -> dict[str, jax.ShapeDtypeStruct]:
        """Shapes and types of the batch entries that it reads, by the name of the entry."""
        return {}

    def optional_entries(self, name: str) -> tuple[str, ...]:
        """The batch entries that it can do without; they need not be in `example`."""
        return ()

    def run(self, module: nn.Module, name: str, inputs: Inputs, call: Call) -> Products:
        """Calls the module. `inputs` holds the streams that the asked products need, and entries.

        Returns:
          Every product whose needs are among the inputs.
        """
        products: Products = module(inputs, call)
        return products

    def made_if_wanted(self, name: str) -> Mapping[str, tuple[str, ...]]:
        """Outputs that are made only if they are asked for by name, with the streams they need.

        `NAME/attention` are the attention weights that the module sows (`Call.attention`), one
        array [batch, blocks, heads, queries, keys].
        """
        return {}

    def shared_outputs(self, name: str) -> tuple[str, ...]:
        """Those of its outputs that have no batch axis: they are the same for every example."""
        return ()

    def graph_problems(
        self, name: str, widths: Mapping[str, int | None]
    ) -> Iterator[tuple[str, str]]:
        """What does not fit the streams that it reads: pairs of a field of this node and a message.

        Args:
          name: the node's name.
          widths: of every stream of the model; None where it is not known.
        """
        yield from ()

    def width_of(self, stream: str) -> int | None:
        """The size of a token of a stream that it makes; None if it is not known."""
        return getattr(self, "width", None)

    @property
    def updates_state(self) -> bool:
        """Whether training changes state that is not optimized, such as batch statistics."""
        return False


@dataclass(frozen=True, kw_only=True)
class Encoder(Node):
    """Base class of nodes that encode one modality: batch entries in, a stream out.

    Its module is called as `(inputs, mask or None, call, **rest) -> Encoded`. The stream has the
    node's name.

    >>> from vljax.models.encoders import ViT
    >>> sizes = {"width": 384, "depth": 12, "heads": 6, "mlp_dim": 1536}
    >>> teacher = ViT(entry="image", image_size=224, patch_size=16, **sizes)
    >>> teacher.example("teacher", 8)["image"].shape, teacher.makes("teacher")
    ((8, 224, 224, 3), {'teacher': ()})
    """

    any_length: ClassVar[bool] = False
    """Whether sequences may be longer or shorter than in `roles`."""
    several: ClassVar[bool] = False
    """Whether an example may have several inputs, [batch, several, ...] (see `Call.repeated`)."""

    entry: str | None = None
    """The batch entry that it reads, with `ENTRY_mask` and others; None for the node's own name."""

    @abc.abstractmethod
    def roles(self, batch_size: int) -> dict[str, jax.ShapeDtypeStruct]:
        """Shapes and types of `inputs`, of `mask` if the encoder needs one, and of other inputs."""

    def preprocessing(self) -> dict[str, list[float]]:
        """How the module normalises its raw inputs, for `preprocess.json` of exported models."""
        return {}

    def entry_of(self, name: str, role: str = "inputs") -> str:
        """The batch entry that a role is read from: `image` or `image_mask`."""
        entry = self.entry or name
        return entry if role == "inputs" else f"{entry}_{role}"

    def makes(self, name: str) -> dict[str, tuple[str, ...]]:
        return {name: ()}

    def example(self, name: str, batch_size: int) -> dict[str, jax.ShapeDtypeStruct]:
        return {self.entry_of(name, role): spec for role, spec in self.roles(batch_size).items()}

    def optional_entries(self, name: str) -> tuple[str, ...]:
        return (self.entry_of(name, "mask"),)

    def run(self, module: nn.Module, name: str, inputs: Inputs, call: Call) -> Products:
        rest = {r: inputs[self.entry_of(name, r)] for r in self.roles(1) if r not in _POSITIONAL}
        mask = inputs.get(self.entry_of(name, "mask"))
        return {name: module(inputs[self.entry_of(name)], mask, call, **rest)}


_POSITIONAL = ("inputs", "mask")
"""Roles that an encoder's module takes as positional arguments."""


# --- The graph ------------------------------------------------------------------------------------


def stream_of(output: str) -> str:
    """The stream that an output belongs to: `image` for `image/tokens`."""
    return output.rsplit("/", 1)[0]


def width_misfit(widths: Mapping[str, int | None], stream: str, width: int) -> str:
    """For `graph_problems` of nodes with a `width`: how that of a stream differs; "" if it fits.

    >>> width_misfit({"text": 512}, "text", 768), width_misfit({"text": None}, "text", 768)
    ("'text' is 512 wide but width is 768", '')
    """
    if widths[stream] in (None, width):
        return ""
    return f"{stream!r} is {widths[stream]} wide but width is {width}"


ATTENTION = "attention"
"""Last part of the name of outputs with attention weights."""


def products_of(node: Node, name: str) -> dict[str, tuple[str, ...]]:
    """All that a node can make, with the streams that each needs."""
    return {**node.makes(name), **node.made_if_wanted(name)}


def makers(nodes: Mapping[str, Node]) -> dict[str, str]:
    """The node that makes each stream and output."""
    return {product: name for name, node in nodes.items() for product in products_of(node, name)}


def graph_problems(nodes: Mapping[str, Node]) -> Iterator[tuple[str, str]]:
    """What is wrong with the graph: pairs of a field of `nodes` and a message."""
    owner: dict[str, str] = {}
    for name, node in nodes.items():
        for product in node.makes(name):
            other = owner.setdefault(product, name)
            if other != name:
                yield name, f"makes {product!r}, as {other!r} does; rename one of them"
    widths = {product: nodes[name].width_of(product) for product, name in owner.items()}
    streams = [product for product in owner if "/" not in product]
    complete = True
    for name, node in nodes.items():
        for stream in node.streams_read():
            if stream not in owner:
                complete = False
                yield name, f"reads {stream!r}, which no node makes{suggest(stream, streams)}"
    if not complete:
        return
    if cycle := _cycle(nodes, owner):
        path = " <- ".join([*cycle, cycle[0]])
        yield cycle[0], f"reads its own output: {path}; read another stream"
        return
    for name, node in nodes.items():
        for field, message in node.graph_problems(name, widths):
            yield f"{name}.{field}", message


def _cycle(nodes: Mapping[str, Node], owner: Mapping[str, str]) -> list[str]:
    """Nodes each of which reads from the next one, the last from the first; empty if none do."""
    done: set[str] = set()

    def visit(name: str, path: list[str]) -> list[str]:
        if name in path:
            return path[path.index(name) :]
        if name in done:
            return []
        for stream in nodes[name].streams_read():
            if found := visit(owner[stream], [*path, name]):
                return found
        done.add(name)
        return []

    return next((found for name in nodes if (found := visit(name, []))), [])


class Visit(NamedTuple):
    """A node to run, and what it is asked to make."""

    node: str
    products: tuple[str, ...]


def plan(
    nodes: Mapping[str, Node],
    entries: Iterable[str],
    given: Iterable[str] = (),
    want: Iterable[str] | None = None,
) -> list[Visit]:
    """The nodes to run, in an order in which each comes after those that it reads.

    Args:
      nodes: a graph without problems.
      entries: names of the batch entries that are there.
      given: names of outputs that need not be computed. A stream is given by its `tokens`, an
        embedding or another pooled vector of it by its `pooled`.
      want: names of the outputs to make; None for all that can be made.

    Raises:
      ValueError: for an output that no node makes, or that needs an entry that is not there.

    >>> from vljax.models.heads import Embedding
    >>> from vljax.models.presets import text, vit
    >>> nodes = {
    ...     "embedding": Embedding(384),
    ...     "image": vit("S/16", image_size=224),
    ...     "text": text("S", vocab_size=32_000, context_length=64),
    ... }
    >>> [visit.node for visit in plan(nodes, ["image"], want=["image/embedding"])]
    ['image', 'embedding']
    """
    present, owner, names = set(entries), makers(nodes), tuple(given)
    known = {product for product in owner if product in names}
    known |= {stream_of(name) for name in names if name.endswith(("/tokens", "/pooled"))}
    asked: dict[str, dict[str, None]] = {}
    lacking: dict[str, str | None] = {}

    def needs(product: str) -> tuple[str, ...]:
        return products_of(nodes[owner[product]], owner[product])[product]

    def lacks(product: str) -> str | None:
        """The batch entry without which a product cannot be made; None if it can be."""
        if product in known:
            return None
        if product not in lacking:
            name = owner[product]
            optional = nodes[name].optional_entries(name)
            needed = [e for e in nodes[name].example(name, 1) if e not in optional]
            missing = [e for e in needed if e not in present]
            lacking[product] = next(iter(missing), None) or next(
                (e for s in needs(product) if (e := lacks(s)) is not None), None
            )
        return lacking[product]

    def add(product: str) -> None:
        if product in known:
            return
        for stream in needs(product):
            add(stream)
        asked.setdefault(owner[product], {})[product] = None

    if want is None:
        made = [product for name, node in nodes.items() for product in node.makes(name)]
        wanted = [product for product in made if lacks(product) is None]
    else:
        wanted = []
        for output in want:
            of_stream = output.rsplit("/", 1)[-1] in Encoded._fields
            product = stream_of(output) if output not in owner and of_stream else output
            if product not in owner:
                options = [p if "/" in p else f"{p}/tokens" for p in owner]
                raise ValueError(f"no node makes {output!r}{suggest(output, options)}")
            if output in names or product in wanted:
                continue
            if (entry := lacks(product)) is not None:
                raise ValueError(f"{output!r} needs the batch entry {entry!r}, which is not there")
            wanted.append(product)
    for product in wanted:
        add(product)
    return [Visit(name, tuple(asked[name])) for name in _sorted(nodes, owner) if name in asked]


def _sorted(nodes: Mapping[str, Node], owner: Mapping[str, str]) -> list[str]:
    """All nodes, each after those that it reads."""
    done: dict[str, None] = {}

    def visit(name: str) -> None:
        if name not in done:
            for stream in nodes[name].streams_read():
                visit(owner[stream])
            done[name] = None

    for name in nodes:
        visit(name)
    return list(done)
