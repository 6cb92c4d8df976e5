"""Make examples by index and stack them into batches, in threads or worker processes.

A `Loader` reads and transforms. It never fails on bad data: an example that cannot be
used stays in its batch, masked out, with the reason. `make_batches` runs a loader over a stream of
examples in the background, and `Batches` is the iterator that the trainer and the evaluators read.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Bool, Int64, UInt32

from vljax.config import UserError
from vljax.data.pipeline.order import ScheduledExample
from vljax.data.randomness import Step, example_generator
from vljax.data.records import ExampleError, Records
from vljax.data.tokenizers.base import LoadedTokenizer
from vljax.data.transforms.base import Arrays, Transform, declared_arrays, length_at

if TYPE_CHECKING:
    import grain

Batch = dict[str, np.ndarray]

# Keys of per-batch data that is not fed to the model; `Batches` takes them out.
REJECTED = "rejected"
REPEATED = "repeated"
# Key of the dict of arrays of an example.
ARRAYS = "arrays"
PADDING_INDEX = -1

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class RejectedExample:
    """An example that was masked out, and why."""

    row: int
    """Row in the batch."""
    source: str
    """Name of its source."""
    identity: str
    """`Records.identity` of its source."""
    index: int
    """Index in its source."""
    kind: str
    """Kind of the rejection, one of `REJECTION_KINDS`."""
    reason: str
    """Message for people."""


@dataclass(frozen=True)
class BatchStatistics:
    """Which examples of one batch, or of this process's rows of it, could be used."""

    step: int
    """Number of the batch."""
    valid: Bool[np.ndarray, " rows"]
    """Which examples can be used."""
    repeated: Bool[np.ndarray, " rows"]
    """Which examples were seen in an earlier epoch of their source."""
    rejected: tuple[RejectedExample, ...]
    """The examples that cannot be used."""


OnBatch = Callable[[BatchStatistics], None]


@dataclass(frozen=True)
class OpenPart:
    """An opened source with its transforms: one part of a mixture, or the only source."""

    name: str
    """Name in messages and in the keys of random numbers."""
    records: Records
    """The records, by index."""
    transforms: tuple[Transform, ...]
    """Transforms from a record to the arrays of a batch."""


@dataclass(frozen=True)
class Loader:
    """Makes examples by index, and batches of examples. Can be pickled for worker processes."""

    parts: tuple[OpenPart, ...]
    """The opened sources."""
    tokenizers: dict[str, LoadedTokenizer]
    """The tokenizers by name."""
    seed: int
    """Seed of all random transforms."""
    evaluation: bool = False
    """Whether examples stay valid if only other transforms than those of images fail: an image
    without a text can be classified."""

    def training_example(self, scheduled: ScheduledExample) -> dict[str, Any]:
        """The scheduled example, masked out if it cannot be used."""
        step = Step(self.seed, scheduled.step)
        return self._load(scheduled.part, scheduled.epoch, scheduled.example_index, step)

    def evaluation_example(self, index: int) -> dict[str, Any]:
        """The example at an index; beyond the last one, padding, which is masked out."""
        if index >= len(self.parts[0].records):
            return self._example(0, PADDING_INDEX, self._blank(0, None), valid=False)
        return self._load(0, 0, index, None)

    def _load(self, number: int, epoch: int, index: int, step: Step | None) -> dict[str, Any]:
        part = self.parts[number]
        try:
            arrays = self._transform(part, epoch, index, step)
        except ExampleError as error:
            rejected = RejectedExample(
                0, part.name, part.records.identity, index, error.kind, str(error)
            )
            blank = self._blank(number, step)
            return self._example(number, index, blank, valid=False, epoch=epoch, rejected=rejected)
        return self._example(number, index, arrays, epoch=epoch)

    def _declared(self, part: OpenPart, step: Step | None) -> list[Arrays]:
        key = part.name, length_at(part.transforms, step)
        if key not in self._known:
            configs = {name: loaded.config for name, loaded in self.tokenizers.items()}
            self._known[key] = declared_arrays(part.transforms, configs, key[1])
        return self._known[key]

    @functools.cached_property
    def _known(self) -> dict[tuple[str, int | None], list[Arrays]]:
        """Declared arrays by name of the part and sequence length."""
        return {}

    def _blank(self, number: int, step: Step | None) -> dict[str, np.ndarray]:
        part = self.parts[number]
        arrays: dict[str, np.ndarray] = {}
        for transform, own in zip(part.transforms, self._declared(part, step), strict=True):
            if own:
                arrays |= transform.blank(own, self.tokenizers)
        return arrays

    def _transform(
        self, part: OpenPart, epoch: int, index: int, step: Step | None
    ) -> dict[str, np.ndarray]:
        """The arrays of an example."""
        example: dict[str, Any] = {"record": part.records[index], "tokenizers": self.tokenizers}
        if step is not None:
            example["step"] = step
        rng = example_generator(self.seed, part.name, epoch, index)
        lost: set[str] = set()
        arrays: dict[str, np.ndarray] = {}
        expected: Arrays = {}
        for transform, own in zip(part.transforms, self._declared(part, step), strict=True):
            expected |= own
            try:
                if lost & {*transform.reads()}:
                    raise ExampleError("what it reads could not be made")
                example = transform(example, rng)
                lost -= {*transform.makes()}
            except ExampleError:
                if not self.evaluation or transform.needed():
                    raise
                lost |= {*transform.makes()}
                arrays |= transform.blank(own, self.tokenizers)
        arrays = {name: arrays[name] if name in lost else example[name] for name in expected}
        # A wrong shape or type is a bug in a transform, not bad data: raise, don't mask it out.
        for name, (shape, dtype) in expected.items():
            made = arrays[name]
            if (made.shape, made.dtype) != (shape, dtype):
                raise ValueError(
                    f"transforms made {name} {made.dtype}{list(made.shape)} of example "
                    f"{part.name}/{index}, expected {dtype}{list(shape)}"
                )
        return arrays

    def _example(
        self,
        part: int,
        index: int,
        arrays: dict[str, np.ndarray],
        *,
        valid: bool = True,
        epoch: int = 0,
        rejected: RejectedExample | None = None,
    ) -> dict[str, Any]:
        return {
            ARRAYS: arrays,
            "part": part,
            "example_id": index,
            "valid": valid,
            REPEATED: epoch > 0,
            REJECTED: rejected,
        }

    def batch(self, examples: Sequence[dict[str, Any]]) -> dict[str, Any]:
        """Stack examples.

        Adds a tuple of `RejectedExample` under `REJECTED`, and a bool for each example under
        `REPEATED`.
        """
        column = {key: [example[key] for example in examples] for key in examples[0]}
        indices = np.array(column["example_id"], np.int64)
        arrays = column[ARRAYS]
        return {
            **{name: np.stack([each[name] for each in arrays]) for name in arrays[0]},
            "example_id": pack_ids(indices, np.array(column["part"], np.int64)),
            "valid": np.array(column["valid"], bool),
            REPEATED: np.array(column[REPEATED], bool),
            REJECTED: tuple(
                replace(rejected, row=row)
                for row, rejected in enumerate(column[REJECTED])
                if rejected is not None
            ),
        }


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
    on_batch: OnBatch | None = None,
) -> Batches:
    """This process's rows of the batches from number `first` on.

    Args:
      loader: makes a batch of examples.
      stream: the examples in their global order.
      batch_size: examples in a batch over all processes.
      first: number of the first batch.
      process_index: number of the group of rows to make.
      process_count: number of equal groups that the rows of a batch are divided into.
      workers: processes that prepare batches; 0 prepares them in threads.
      prefetch: batches that each worker, or all threads together, prepare at a time.
      on_batch: called with the statistics of each batch that is read.

    Raises:
      UserError: if the batch cannot be divided among the processes.
    """
    import grain

    if batch_size < 1 or batch_size % process_count:
        raise UserError(
            f"global_batch: {batch_size} examples cannot be divided among {process_count} processes"
        )
    # Group j belongs to process j % process_count. A slice seeks without reading anything.
    groups = stream.batch(batch_size // process_count, batch_fn=loader.batch)
    own = groups[first * process_count + process_index :: process_count]
    # After a pause, such as an evaluation, all threads start a batch at the same moment, and no
    # batch is ready until they finish. A buffer of more batches than threads covers that time.
    buffer = prefetch if workers else 2 * prefetch
    options = grain.ReadOptions(num_threads=prefetch, prefetch_buffer_size=buffer)
    batches = own.to_iter_dataset(options)
    if workers:
        _parse_flags()
        batches = batches.mp_prefetch(
            grain.MultiprocessingOptions(num_workers=workers, per_worker_buffer_size=prefetch)
        )
    return Batches(iter(batches), first, on_batch)


def _parse_flags() -> None:
    """Mark absl's flags as parsed: Grain's workers read them, and vljax does not use `app.run`."""
    from absl import flags

    if not flags.FLAGS.is_parsed():
        flags.FLAGS.mark_as_parsed()


class Batches(Iterator[Batch]):
    """An iterator of batches, prepared in the background from the moment it is made.

    Logs each masked-out example once per process. The workers log nothing.

    Args:
      iterator: batches as `Loader.batch` makes them.
      step: number of the first one.
      on_batch: called with the statistics of each batch that is read, in order.
    """

    def __init__(
        self, iterator: grain.DatasetIterator[Any], step: int = 0, on_batch: OnBatch | None = None
    ):
        self._iterator, self._step, self._on_batch = iterator, step, on_batch
        iterator.start_prefetch()

    def __next__(self) -> Batch:
        batch: dict[str, Any] = dict(next(self._iterator))
        rejected, repeated = batch.pop(REJECTED), batch.pop(REPEATED)
        for example in rejected:
            _log_once(example)
        if self._on_batch is not None:
            self._on_batch(BatchStatistics(self._step, batch["valid"], repeated, rejected))
        self._step += 1
        return batch

    def close(self) -> None:
        """End the threads and processes that prepare batches."""
        self._iterator.close()


# Examples that this process has logged: source, identity of its records, and index. They are kept
# because each evaluation and plot reads the same examples again.
_logged: set[tuple[str, str, int]] = set()
_MOST_LOGGED = 200


def _log_once(example: RejectedExample) -> None:
    key = example.source, example.identity, example.index
    if key in _logged or len(_logged) > _MOST_LOGGED:
        return
    _logged.add(key)
    if len(_logged) > _MOST_LOGGED:
        logger.warning("more examples are masked out; from here on, they are not named")
    else:
        where = f"{example.source}/{example.index}"
        logger.warning("example %s: %s: masked out", where, example.reason)


def pack_ids(
    indices: Int64[np.ndarray, " batch"], source_number: int | Int64[np.ndarray, " batch"] = 0
) -> UInt32[np.ndarray, "batch 2"]:
    """Pack example ids for the device, which has no 64-bit integers.

    >>> pack_ids(np.array([7, -1]), source_number=2).tolist()
    [[131072, 7], [4294967295, 4294967295]]

    Args:
      indices: below 2**48; -1 for padding.
      source_number: the number of the source in the recipe, below 2**16.

    Returns:
      High and low half of `source_number << 48 | index`; all ones for padding.
    """
    sources = np.asarray(source_number, np.uint64) << np.uint64(48)
    padding = np.uint64(2**64 - 1)
    ids = np.where(indices < 0, padding, indices.astype(np.uint64) | sources)
    halves = np.stack([ids >> np.uint64(32), ids & np.uint64(0xFFFFFFFF)], axis=-1)
    return halves.astype(np.uint32)


def unpack_ids(ids: UInt32[np.ndarray, "batch 2"]) -> Int64[np.ndarray, " batch"]:
    """The inverse of `pack_ids`: `source_number << 48 | index`, -1 for padding."""
    return (ids[..., 0].astype(np.int64) << 32) | ids[..., 1].astype(np.int64)
