"""Batches from a stream of examples, prepared in threads or worker processes."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from vljax.config import UserError
from vljax.data.example import REJECTED, Loader

if TYPE_CHECKING:
    import grain

Batch = dict[str, np.ndarray]

logger = logging.getLogger(__name__)

# Source, identity of its records, and index of the examples that this process has logged. Every
# evaluation and plot reads the same examples again.
_logged: set[tuple[str, str, int]] = set()


def make_batches(
    loader: Loader,
    stream: grain.MapDataset[Any],
    *,
    batch_size: int,
    first: int,
    process_index: int,
    process_count: int,
    workers: int,
    prefetch: int,
) -> Batches:
    """This process's part of the batches from number `first` on.

    Raises:
      UserError: if the batch does not divide by the processes.
    """
    import grain

    if batch_size < 1 or batch_size % process_count:
        raise UserError(
            f"global_batch: {batch_size} examples cannot be divided among {process_count} processes"
        )
    # Part j belongs to process j % process_count. A slice seeks without reading anything.
    parts = stream.batch(batch_size // process_count, batch_fn=loader.batch)
    own = parts[first * process_count + process_index :: process_count]
    options = grain.ReadOptions(num_threads=prefetch, prefetch_buffer_size=prefetch)
    batches = own.to_iter_dataset(options)
    if workers:
        _parse_flags()
        batches = batches.mp_prefetch(
            grain.MultiprocessingOptions(num_workers=workers, per_worker_buffer_size=prefetch)
        )
    return Batches(iter(batches), loader)


def _parse_flags() -> None:
    """Grain's worker processes read absl flags, which only absl's own `app.run` parses."""
    from absl import flags

    if not flags.FLAGS.is_parsed():
        flags.FLAGS.mark_as_parsed()


class Batches(Iterator[Batch]):
    """An iterator of batches, prepared in the background from the moment it is made.

    It logs each example that is masked out, here and not in the workers, once in this process.
    """

    def __init__(self, iterator: grain.DatasetIterator[Any], loader: Loader):
        self._iterator = iterator
        self._source = loader.source
        self._identity = loader.records.identity
        iterator.start_prefetch()

    def __next__(self) -> Batch:
        batch: dict[str, Any] = dict(next(self._iterator))
        for rejected in batch.pop(REJECTED):
            key = (self._source, self._identity, rejected.index)
            if key not in _logged:
                _logged.add(key)
                where = f"{self._source}/{rejected.index}"
                logger.warning("example %s: %s: masked out", where, rejected.reason)
        return batch

    def close(self) -> None:
        """Ends the threads and processes that prepare batches."""
        self._iterator.close()
