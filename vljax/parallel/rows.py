"""Which rows of a global batch this process has to read, and the global arrays made of them."""

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


class Parts(NamedTuple):
    """A batch is cut into `total` equal parts, of which this process reads some."""

    own: tuple[int, ...]
    total: int


def parts(spans: list[tuple[int, int]], rows: int) -> Parts:
    """The largest equal parts of a batch that make up given rows.

    One part suffices where the rows are in one piece, as they are unless the mesh follows the
    wiring of a TPU.

    Args:
      spans: first row and the row after the last, for each device of this process.
      rows: of the whole batch.
    """
    merged: list[tuple[int, int]] = []
    for begin, end in sorted(set(spans)):
        if merged and merged[-1][1] == begin:
            merged[-1] = (merged[-1][0], end)
        else:
            merged.append((begin, end))
    size = math.gcd(rows, *(edge for span in merged for edge in span))
    own = [part for begin, end in merged for part in range(begin // size, end // size)]
    return Parts(tuple(own), rows // size)


def own_parts(sharding: NamedSharding, rows: int) -> Parts:
    """The parts of a batch that this process's devices hold."""
    indices = sharding.addressable_devices_indices_map((rows,)).values()
    return parts([_span(index, rows) for index in indices], rows)


def first_held(sharding: NamedSharding, rows: int) -> Bool[np.ndarray, "{rows}"]:
    """The rows of a batch that this process holds and none of a lower number does.

    Where a layer is split over processes, these read the same rows; of each row, one counts.
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


def read(open_part: Callable[[int, int], Any], wanted: Parts) -> Iterator[dict[str, np.ndarray]]:
    """The wanted rows of each batch, in order.

    Args:
      open_part: number of a part and count of the parts -> iterator of batches with `close`.
      wanted: which parts.
    """
    with ExitStack() as stack:
        sources = [
            stack.enter_context(closing(open_part(part, wanted.total))) for part in wanted.own
        ]
        for pieces in zip(*sources, strict=True):
            yield _joined(pieces)


def _joined(pieces: tuple[Rows, ...]) -> dict[str, np.ndarray]:
    if len(pieces) == 1:
        return dict(pieces[0])
    return {name: np.concatenate([piece[name] for piece in pieces]) for name in pieces[0]}


def place(own: Rows, sharding: NamedSharding, rows: int) -> dict[str, jax.Array]:
    """Global arrays of `rows` rows from the rows that this process read."""
    return {
        name: jax.make_array_from_process_local_data(sharding, array, (rows, *array.shape[1:]))
        for name, array in own.items()
    }


def place_whole(array: np.ndarray | jax.Array, sharding: NamedSharding) -> jax.Array:
    """A global array from one that every process has in full; one on the devices stays as it is."""
    if isinstance(array, jax.Array):
        return array
    # Unlike device_put, this asks no other process whether it has the same.
    return jax.make_array_from_callback(array.shape, sharding, lambda index: array[index])
