"""Rows of the global batch: which ones this process reads, and global arrays made of them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, closing
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import NamedSharding
from jaxtyping import Bool

Rows = Mapping[str, np.ndarray]


class BatchParts(NamedTuple):
    """The parts that a process reads of a batch that is cut into equal parts."""

    own: tuple[int, ...]
    """Indices of the parts that this process reads."""
    total: int
    """Number of parts of the batch."""


def local_parts(sharding: NamedSharding, rows: int) -> BatchParts:
    """The parts of a batch of `rows` rows that the devices of this process hold.

    >>> from vljax.parallel.mesh import MeshConfig, make_mesh
    >>> from vljax.parallel.rules import batch_sharding
    >>> local_parts(batch_sharding(make_mesh(MeshConfig())), 64)  # one process reads everything
    BatchParts(own=(0,), total=1)
    """
    indices = sharding.addressable_devices_indices_map((rows,)).values()
    return parts_of_spans([_span(index, rows) for index in indices], rows)


def parts_of_spans(spans: list[tuple[int, int]], rows: int) -> BatchParts:
    """The largest equal parts of a batch that make up the spans of rows.

    Mostly the rows of a process are contiguous, so that one part suffices. They are not where the
    mesh follows the wiring of a TPU slice.

    Args:
      spans: first row and the row after the last, for each device of this process.
      rows: rows of the global batch.
    """
    merged: list[tuple[int, int]] = []
    for begin, end in sorted(set(spans)):
        if merged and merged[-1][1] == begin:
            merged[-1] = (merged[-1][0], end)
        else:
            merged.append((begin, end))
    size = math.gcd(rows, *(edge for span in merged for edge in span))
    own = [part for begin, end in merged for part in range(begin // size, end // size)]
    return BatchParts(tuple(own), rows // size)


def counted_rows(sharding: NamedSharding, rows: int) -> Bool[np.ndarray, "{rows}"]:
    """A mask of the rows that this process counts: those that no process before it holds.

    Processes that split a layer between them read the same rows. Each row counts once.
    """
    lowest = np.full(rows, np.iinfo(np.int64).max)
    holders: Mapping[Any, Any] = sharding.devices_indices_map((rows,))
    for device, index in holders.items():
        begin, end = _span(index, rows)
        lowest[begin:end] = np.minimum(lowest[begin:end], device.process_index)
    return lowest == jax.process_index()


def _span(index: Any, rows: int) -> tuple[int, int]:
    begin, end, _ = index[0].indices(rows)
    return begin, end


def read_parts(
    open_part: Callable[[int, int], Any], parts: BatchParts
) -> Iterator[dict[str, np.ndarray]]:
    """The rows of each batch that this process reads, in order.

    Args:
      open_part: `(index of a part, number of parts) -> iterator of batches` with `close`.
      parts: the parts to read.
    """
    with ExitStack() as stack:
        sources = [stack.enter_context(closing(open_part(part, parts.total))) for part in parts.own]
        for pieces in zip(*sources, strict=True):
            yield _concatenated(pieces)


def _concatenated(pieces: tuple[Rows, ...]) -> dict[str, np.ndarray]:
    if len(pieces) == 1:
        return dict(pieces[0])
    return {name: np.concatenate([piece[name] for piece in pieces]) for name in pieces[0]}


def global_arrays(local: Rows, sharding: NamedSharding, rows: int) -> dict[str, jax.Array]:
    """Global arrays of `rows` rows, made of the rows that each process has read."""
    return {
        name: jax.make_array_from_process_local_data(sharding, array, (rows, *array.shape[1:]))
        for name, array in local.items()
    }


def shard_array(array: np.ndarray | jax.Array, sharding: NamedSharding) -> jax.Array:
    """A global array, made of one that every process has in full; a jax.Array stays as it is."""
    if isinstance(array, jax.Array):
        return array
    # `device_put` would compare the array between processes, which takes a collective.
    return jax.make_array_from_callback(array.shape, sharding, lambda index: array[index])
