"""Batches from a stream of examples, prepared in threads or worker processes."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Bool

from vljax.config import UserError
from vljax.data.example import REJECTED, REPEATED, Loader, Rejected

if TYPE_CHECKING:
    import grain

Batch = dict[str, np.ndarray]

logger = logging.getLogger(__name__)

# Source, identity of its records, and index of the examples that this process has logged. Every
# evaluation and plot reads the same examples again.
_logged: set[tuple[str, str, int]] = set()
_MOST_LOGGED = 200


@dataclass(frozen=True)
class Account:
    """What became of the examples of one batch, or of a process's part of it.

    Attributes:
      step: the number of the batch.
      valid: which examples can be used.
      repeated: which come from a source that has been gone through before.
      rejected: why the others cannot be used.
    """

    step: int
    valid: Bool[np.ndarray, " rows"]
    repeated: Bool[np.ndarray, " rows"]
    rejected: tuple[Rejected, ...]


Report = Callable[[Account], None]


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
    report: Report | None = None,
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
    # Threads that are at work on a batch each all come late with it after a pause, such as an
    # evaluation, unless more batches wait than there are threads.
    waiting = prefetch if workers else 2 * prefetch
    options = grain.ReadOptions(num_threads=prefetch, prefetch_buffer_size=waiting)
    batches = own.to_iter_dataset(options)
    if workers:
        _parse_flags()
        batches = batches.mp_prefetch(
            grain.MultiprocessingOptions(num_workers=workers, per_worker_buffer_size=prefetch)
        )
    return Batches(iter(batches), first, report)


def _parse_flags() -> None:
    """Grain's worker processes read absl flags, which only absl's own `app.run` parses."""
    from absl import flags

    if not flags.FLAGS.is_parsed():
        flags.FLAGS.mark_as_parsed()


class Batches(Iterator[Batch]):
    """An iterator of batches, prepared in the background from the moment it is made.

    It logs each example that is masked out, here and not in the workers, once in this process.

    Args:
      iterator: of batches with what `Loader.batch` adds to them.
      step: the number of the first one.
      report: told of each batch that is taken, in order.
    """

    def __init__(
        self, iterator: grain.DatasetIterator[Any], step: int = 0, report: Report | None = None
    ):
        self._iterator, self._step, self._report = iterator, step, report
        iterator.start_prefetch()

    def __next__(self) -> Batch:
        batch: dict[str, Any] = dict(next(self._iterator))
        rejected, repeated = batch.pop(REJECTED), batch.pop(REPEATED)
        for example in rejected:
            _log(example)
        if self._report is not None:
            self._report(Account(self._step, batch["valid"], repeated, rejected))
        self._step += 1
        return batch

    def close(self) -> None:
        """Ends the threads and processes that prepare batches."""
        self._iterator.close()


def _log(example: Rejected) -> None:
    key = example.source, example.identity, example.index
    if key in _logged or len(_logged) > _MOST_LOGGED:
        return
    _logged.add(key)
    if len(_logged) > _MOST_LOGGED:
        logger.warning("more examples are masked out; from here on, they are not named")
    else:
        where = f"{example.source}/{example.index}"
        logger.warning("example %s: %s: masked out", where, example.reason)
