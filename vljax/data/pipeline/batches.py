"""One example of a batch: read, transformed, tokenized; or masked out with a reason."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Bool, Int64, UInt32

from vljax.config import UserError
from vljax.data.pipeline.order import Visit
from vljax.data.randomness import Step, example_generator
from vljax.data.records import ExampleError, Records
from vljax.data.tokenizers.base import LoadedTokenizer
from vljax.data.transforms.base import Transform, image_transform

# The keys under which travels with a batch what is no part of it: rejected examples, and which
# have been seen before.
REJECTED = "rejected"
REPEATED = "repeated"
PADDING_INDEX = -1
# Under this key, an example has a dict of all arrays of its image.
IMAGE = "image"


@dataclass(frozen=True)
class Rejected:
    """Why an example was masked out."""

    row: int
    """Of the batch."""
    source: str
    """The name of its source."""
    identity: str
    """Of the records of the source."""
    index: int
    """Of the example in the source."""
    kind: str
    """The class of reasons, see `ExampleError`."""
    reason: str
    """For people."""


@dataclass(frozen=True)
class OpenPart:
    """An opened source, and what is done to its examples."""

    name: str
    """In messages and in the keys of random numbers."""
    records: Records
    """By index."""
    transforms: tuple[Transform, ...]
    """From record to `image` and `text`."""


@dataclass(frozen=True)
class Loader:
    """Makes examples by index, and batches of them. Travels to worker processes."""

    parts: tuple[OpenPart, ...]
    """The opened sources."""
    tokenizer: LoadedTokenizer
    """Makes the ids."""
    seed: int
    """Of the random numbers."""
    evaluation: bool = False
    """Whether batches have a `label` and keep images without a text as valid, to be classified;
    training has no use for these."""

    def visit(self, visit: Visit) -> dict[str, Any]:
        """An example for training, masked out if it cannot be used."""
        return self._load(visit.part, visit.epoch, visit.record, Step(self.seed, visit.step))

    def evaluate(self, index: int) -> dict[str, Any]:
        """An example for evaluation; past the end, one that is masked out."""
        if index >= len(self.parts[0].records):
            return self._example(0, PADDING_INDEX, self._blank(0, None), "", valid=False)
        return self._load(0, 0, index, None)

    def _load(self, number: int, epoch: int, index: int, step: Step | None) -> dict[str, Any]:
        part = self.parts[number]
        about: dict[str, Any] = {"epoch": epoch}
        try:
            if self.evaluation:
                about["label"] = part.records.annotation(index).label
            image, text = self._transformed(part, epoch, index, step)
        except ExampleError as error:
            rejected = Rejected(0, part.name, part.records.identity, index, error.kind, str(error))
            blank = self._blank(number, step)
            return self._example(number, index, blank, "", valid=False, rejected=rejected, **about)
        return self._example(number, index, image, text, **about)

    def _blank(self, part: int, step: Step | None) -> dict[str, np.ndarray]:
        fixes = image_transform(self.parts[part].transforms)
        return fixes.blank(fixes.length_at(step))

    def _transformed(
        self, part: OpenPart, epoch: int, index: int, step: Step | None
    ) -> tuple[dict[str, np.ndarray], str]:
        """The arrays of an image, and the text."""
        example: dict[str, Any] = {"record": part.records[index]}
        if step is not None:
            example["step"] = step
        rng = example_generator(self.seed, part.name, epoch, index)
        for transform in part.transforms:
            try:
                example = transform(example, rng)
            except ExampleError:
                if not self.evaluation or transform.provides != "text":
                    raise
                example = {**example, "text": ""}
        fixes = image_transform(part.transforms)
        arrays = {}
        for name, wanted in (fixes.image_arrays(fixes.length_at(step)) or {}).items():
            arrays[name] = array = example[name]
            if (array.shape, array.dtype) != wanted:
                raise ValueError(
                    f"transforms made {array.dtype}{list(array.shape)} of example "
                    f"{part.name}/{index}, expected {wanted[1]}{list(wanted[0])}"
                )
        text = example["text"]
        if not self.evaluation and not self.tokenizer.clean(text):
            raise ExampleError(f"text {text!r} is empty after cleaning", kind="no_caption")
        return arrays, text

    def _example(
        self,
        part: int,
        index: int,
        image: dict[str, np.ndarray],
        text: str,
        *,
        valid: bool = True,
        label: int | None = None,
        epoch: int = 0,
        rejected: Rejected | None = None,
    ) -> dict[str, Any]:
        return {
            IMAGE: image,
            "text": text,
            "part": part,
            "example_id": index,
            "valid": valid,
            "label": -1 if label is None else label,
            REPEATED: epoch > 0,
            REJECTED: rejected,
        }

    def batch(self, examples: Sequence[dict[str, Any]]) -> dict[str, Any]:
        """Examples stacked and tokenized.

        Under `REJECTED` is a tuple of those masked out, under `REPEATED` a bool for each example.
        """
        column = {key: [example[key] for example in examples] for key in examples[0]}
        ids, mask = self.tokenizer(column["text"])
        indices = np.array(column["example_id"], np.int64)
        images = column[IMAGE]
        batch = {
            **{name: np.stack([arrays[name] for arrays in images]) for name in images[0]},
            "text": ids,
            "text_mask": mask,
            "example_id": pack_ids(indices, np.array(column["part"], np.int64)),
            "valid": np.array(column["valid"], bool),
            REPEATED: np.array(column[REPEATED], bool),
            REJECTED: tuple(
                replace(rejected, row=row)
                for row, rejected in enumerate(column[REJECTED])
                if rejected is not None
            ),
        }
        if self.evaluation:
            batch["label"] = np.array(column["label"], np.int32)
        return batch


def pack_ids(
    indices: Int64[np.ndarray, " batch"], source_number: int | Int64[np.ndarray, " batch"] = 0
) -> UInt32[np.ndarray, "batch 2"]:
    """Example ids for the device, which has no 64-bit integers.

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


# --- Batches from a stream of examples, prepared in threads or worker processes -------------------

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
    """What became of the examples of one batch, or of a process's part of it."""

    step: int
    """The number of the batch."""
    valid: Bool[np.ndarray, " rows"]
    """Which examples can be used."""
    repeated: Bool[np.ndarray, " rows"]
    """Which come from a source that has been gone through before."""
    rejected: tuple[Rejected, ...]
    """Why the others cannot be used."""


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
