"""The base of fusions that read streams on an equal footing, and the alignment of their rows."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from vljax.config import UserError
from vljax.models.compute import Call
from vljax.models.layers.pooling import mean
from vljax.models.node import Encoded, Inputs, Node, width_misfit


@dataclass(frozen=True, kw_only=True)
class Fusion(Node):
    """Base class of fusions of two or more streams into the stream with the node's name.

    A member adds `module`; one that makes other products replaces `makes`. Its module calls
    `aligned`, so that several texts of an image may be fused with one copy of its tokens.

    >>> from flax import linen as nn
    >>> @dataclass(frozen=True, kw_only=True)
    ... class Mean(Fusion, name="mean_of_vectors"):
    ...     def module(self, compute, name):
    ...         return MeanModule(self, name=name)
    >>> class MeanModule(nn.Module):
    ...     config: Mean
    ...     @nn.compact
    ...     def __call__(self, inputs, call):
    ...         streams, call = aligned(inputs, self.config.streams, call)
    ...         mean = sum(pooled(stream) for stream in streams) / len(streams)
    ...         return {self.name: of_vector(mean)}
    >>> Mean(streams=("image", "question")).makes("fusion")
    {'fusion': ('image', 'question')}
    >>> del Node.members["mean_of_vectors"]
    """

    streams: tuple[str, ...] = ("image", "text")
    """The streams that are fused, in this order. One may have several rows (texts) for each row of
    another one (image)."""

    def problems(self) -> Iterator[tuple[str, str]]:
        if len(self.streams) < 2:
            yield "streams", f"names {len(self.streams)} streams; a fusion reads two or more"
        repeated = [name for i, name in enumerate(self.streams) if name in self.streams[:i]]
        if repeated:
            yield "streams", f"names {repeated[0]!r} twice; name different streams"

    def makes(self, name: str) -> Mapping[str, tuple[str, ...]]:
        return {name: self.streams}

    def width_problems(
        self, widths: Mapping[str, int | None], width: int, streams: Sequence[str] | None = None
    ) -> Iterator[tuple[str, str]]:
        """For `graph_problems` of members whose streams must be `width` wide."""
        for stream in self.streams if streams is None else streams:
            if sizes := width_misfit(widths, stream, width):
                yield "streams", f"{sizes}; make them equal"


def aligned(inputs: Inputs, names: Sequence[str], call: Call) -> tuple[list[Encoded], Call]:
    """The streams with equally many rows, and the call for these rows.

    A stream with fewer rows (images) is repeated, each row as often as another stream has texts for
    it.

    Raises:
      UserError: if the rows of one stream are not a multiple of those of another.

    >>> inputs = {
    ...     "image": Encoded(jnp.zeros((2, 9, 8)), jnp.ones((2, 9), bool)),
    ...     "text": Encoded(jnp.zeros((6, 4, 8)), jnp.ones((6, 4), bool)),
    ... }
    >>> [stream.tokens.shape for stream in aligned(inputs, ("image", "text"), Call())[0]]
    [(6, 9, 8), (6, 4, 8)]
    """
    most = max(names, key=lambda name: _rows(inputs[name]))

    def repeat(name: str) -> Encoded:
        stream, count = inputs[name], rows_for_each(inputs, most, name)
        if count == 1:
            return stream
        copies: Encoded = jax.tree.map(lambda x: jnp.repeat(x, count, axis=0), stream)
        return copies

    return [repeat(name) for name in names], call.for_rows(_rows(inputs[most]))


def rows_for_each(inputs: Inputs, many: str, few: str) -> int:
    """How many rows the stream `many` has for each row of `few`: texts for each image.

    Raises:
      UserError: if its rows are not a multiple of those of `few`.

    >>> inputs = {"image": Encoded(jnp.zeros((2, 9, 8)), jnp.ones((2, 9), bool))}
    >>> inputs["text"] = Encoded(jnp.zeros((6, 4, 8)), jnp.ones((6, 4), bool))
    >>> rows_for_each(inputs, "text", "image")
    3
    """
    rows, own = _rows(inputs[many]), _rows(inputs[few])
    if rows % own:
        raise UserError(
            f"the rows of {many!r} ({rows}) are not a multiple of those of {few!r} ({own}); give "
            f"{many!r} as many, or several for each, such as texts of an image"
        )
    return rows // own


def _rows(stream: Encoded) -> Any:
    # A stream that was given by its pooled vector alone has no tokens. Not `len`: an exported
    # program has a symbolic number of rows.
    return jax.tree.leaves(stream)[0].shape[0]


def pooled(stream: Encoded) -> Float[Array, "batch embed"]:
    """The pooled vector of a stream, or the mean of its tokens if it has none."""
    if stream.pooled is not None:
        return stream.pooled
    return mean(stream.tokens, stream.mask)


def of_vector(vector: Float[Array, "batch embed"]) -> Encoded:
    """A stream of one token for each row, which is its pooled vector too."""
    return Encoded(vector[:, None], jnp.ones((vector.shape[0], 1), bool), vector)


def joint_positions(streams: Sequence[Encoded]) -> Float[Array, "batch tokens 2"] | None:
    """The positions of all tokens side by side, -1 for those without; None if no stream has any."""
    known = [stream.positions for stream in streams if stream.positions is not None]
    if not known:
        return None
    filled = [
        jnp.full((*stream.mask.shape, 2), -1, known[0].dtype)
        if stream.positions is None
        else stream.positions
        for stream in streams
    ]
    return jnp.concatenate(filled, axis=1)
