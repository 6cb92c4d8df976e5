"""The training data of a recipe, and its batches in one global order for any number of processes.

The way from records to a batch, by file:

- `data/sources/`: open a data set, and read the record at an index;
- `data/pipeline/order.py`: find the source, epoch and index at a position of the stream;
- `data/transforms/`: make the arrays of an example: decode, augment and resize the image, choose
  and tokenize the text;
- `data/tokenizers/`: clean a text and turn it into token ids, for `tokenize`;
- `data/pipeline/batches.py`: make examples, mask out bad ones, stack, in threads or workers;
- this file: `Data`, the fields of a recipe with their checks, and `train_batches`, which joins
  the above;
- `parallel/` and `programs.py`: put this process's rows onto its devices.

Batch k of a run is a pure function of the data, the seed and k: it holds the examples at positions
`k * global_batch` and following. Each process makes its own contiguous rows of every batch, so the
rows of all processes in order are the batch that one process would make.
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
import time
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np

from vljax.config import UserError, encode, setting
from vljax.data.pipeline.batches import (
    ARRAYS,
    REJECTED,
    Batches,
    Loader,
    OnBatch,
    OpenPart,
    RejectedExample,
    make_batches,
)
from vljax.data.pipeline.order import MAX_LENGTH, ExampleOrder, ScheduledExample
from vljax.data.randomness import Step
from vljax.data.records import Source, error_for_field
from vljax.data.sources.mixture import Mixture, parts_of
from vljax.data.tokenizers.base import LoadedTokenizer, Tokenizer, load_named
from vljax.data.transforms.base import (
    Transform,
    batch_arrays,
    image_lengths,
    length_at,
    list_problems,
)
from vljax.data.transforms.other_image import check_images
from vljax.data.transforms.text import Tokenize
from vljax.data.vocabulary import Vocabulary, VocabularyFile, terms

logger = logging.getLogger(__name__)

# Records of each source whose annotations are checked when training opens it.
_CHECKED_RECORDS = 2000
# Examples of each source that a sample holds, however long they take.
_FEW = 32


@dataclass(frozen=True)
class Data:
    """The training data, and how images and texts become arrays.

    >>> from vljax.recipes import Builtin, ChooseText, Clip, Decode, Flip, Resize, Tokenize
    >>> data = Data(
    ...     source=Builtin("train"),
    ...     tokenizers={"text": Clip(context_length=32)},
    ...     train_transforms=(Decode(), Resize(64), Flip(), ChooseText("random"), Tokenize()),
    ...     eval_transforms=(Decode(), Resize(64), ChooseText(), Tokenize()),
    ... )
    >>> {name: shape for name, (shape, dtype) in data.batch_spec(8).items()}
    {'image': (8, 64, 64, 3), 'text': (8, 32), 'text_mask': (8, 32), 'example_id': (8, 2),
     'valid': (8,)}
    """

    source: Source
    """The training examples; several sources together are a `mixture`."""
    tokenizers: dict[str, Tokenizer]
    """Tokenizers by name, for `tokenize`; the usual name is "text"."""
    train_transforms: tuple[Transform, ...]
    """Transforms from a record to the arrays of a batch, in order; a part of a mixture may have its
    own."""
    eval_transforms: tuple[Transform, ...]
    """The same for evaluation; stored in checkpoints. They may make other arrays."""
    workers: int = setting(0, identity=False)
    """Processes that prepare batches; 0 prepares them in threads of this process."""
    prefetch: int = setting(2, identity=False)
    """Batches that each worker prepares at a time; without workers, twice as many are kept
    ready."""
    max_rejected_share: float = setting(0.1, identity=False)
    """Largest share of rejected examples: a run stops if its share is larger by more than chance
    explains; 1 never stops it."""

    @property
    def image_lengths(self) -> dict[int, float]:
        """Sequence lengths of images in training -> probability; empty for square images."""
        return image_lengths(self.train_transforms)

    def length_at(self, seed: int, step: int) -> int | None:
        """The sequence length of images in the batch of a step; None for square images."""
        return length_at(self.train_transforms, Step(seed, step))

    def batch_spec(
        self, batch_size: int, length: int | None = None
    ) -> dict[str, tuple[tuple[int, ...], np.dtype[Any]]]:
        """Name -> shape and dtype of the arrays in a training batch; opens no file.

        Args:
          batch_size: number of examples.
          length: sequence length of images; by default the longest.
        """
        arrays = batch_arrays(self.train_transforms, self.tokenizers, length)
        return {
            **{name: ((batch_size, *shape), dtype) for name, (shape, dtype) in arrays.items()},
            "example_id": ((batch_size, 2), np.dtype(np.uint32)),
            "valid": ((batch_size,), np.dtype(bool)),
        }

    def tokenizer_name(self, array: str = "text") -> str | None:
        """The name of the tokenizer that makes an array of evaluation batches, or of training ones.

        None if no transform makes the array from a text.
        """
        for transform in reversed((*self.train_transforms, *self.eval_transforms)):
            if isinstance(transform, Tokenize) and transform.makes()[0] == array:
                return transform.tokenizer
        return None

    @property
    def main_tokenizer(self) -> str:
        """The name of the tokenizer of `text`, or of the first one of data without texts."""
        return self.tokenizer_name() or next(iter(self.tokenizers), "text")

    def vocabularies(self) -> dict[str, Vocabulary]:
        """Array -> the texts that its indices stand for, such as the answers to questions."""
        transforms = (*self.train_transforms, *self.eval_transforms)
        known = ((transform.makes()[0], transform.classes()) for transform in transforms)
        return {name: vocabulary for name, vocabulary in known if vocabulary is not None}

    def load_tokenizers(self) -> dict[str, LoadedTokenizer]:
        """All tokenizers, loaded. Raises UserError for one that cannot be loaded."""
        return {name: load_named(name, config) for name, config in self.tokenizers.items()}

    def problems(self) -> Iterator[tuple[str, str]]:
        for field in ("train_transforms", "eval_transforms"):
            problems = list_problems(getattr(self, field), self.tokenizers)
            yield from ((field, message) for message in problems)
        own, evaluated = (
            self._arrays(transforms) for transforms in (self.train_transforms, self.eval_transforms)
        )
        several = self._several()
        for name, made in evaluated.items():
            if name in own and name not in several and made != own[name]:
                remedy = "; --image_size SIZE sets the size in both" if name == "image" else ""
                message = f"make {name} {made}, train_transforms {own[name]}{remedy}"
                yield "eval_transforms", message
        yield from self._part_problems(own)
        if not 0 <= self.max_rejected_share <= 1:
            yield "max_rejected_share", f"must be within 0 and 1, got {self.max_rejected_share}"
        if self.workers < 0:
            yield "workers", f"must be 0 or more, got {self.workers}"
        if self.prefetch < 1:
            yield "prefetch", f"must be at least 1, got {self.prefetch}"

    def _several(self) -> set[str]:
        """Arrays with a row for each of several texts of an example, such as its questions.

        Evaluation may have another number of them: it often has one row for each question.
        """
        names: set[str] = set()
        for transforms in (self.train_transforms, self.eval_transforms):
            counted = {name for transform in transforms for name in transform.counts()}
            names |= {
                name
                for transform in transforms
                if counted & {*transform.reads()}
                for name in transform.makes()
            }
        return names

    def _part_problems(self, expected: dict[str, str]) -> Iterator[tuple[str, str]]:
        for name, part in parts_of(self.source).items():
            field = f"source.parts.{name}.transforms"
            if not part.transforms:
                continue
            problems = list_problems(part.transforms, self.tokenizers)
            yield from ((field, message) for message in problems)
            made = self._arrays(part.transforms)
            for array in sorted(made.keys() | expected.keys()):
                here, there = made.get(array, "nothing"), expected.get(array, "nothing")
                if here != there:
                    yield field, f"make {here} as {array}, train_transforms {there}"
            if image_lengths(part.transforms) != self.image_lengths:
                yield field, "patchify has other lengths or weights than in train_transforms"

    def _arrays(self, transforms: tuple[Transform, ...]) -> dict[str, str]:
        """Description of each array, the same for sequences of patches of any length."""
        # A length that no other axis has marks the axis that varies.
        varies = 7919 if image_lengths(transforms) else None
        arrays = batch_arrays(transforms, self.tokenizers, varies)
        return {
            name: f"{dtype}[{', '.join('length' if n == varies else str(n) for n in shape)}]"
            for name, (shape, dtype) in arrays.items()
        }


def train_batches(
    data: Data,
    *,
    seed: int,
    global_batch: int,
    start_step: int = 0,
    process_index: int = 0,
    process_count: int = 1,
    on_batch: OnBatch | None = None,
) -> Batches:
    """The endless training batches from `start_step` on; earlier batches are not read.

    Args:
      data: what to read.
      seed: seed of the order and of all random transforms.
      global_batch: examples in a batch over all processes.
      start_step: number of the first batch.
      process_index: number of the group of rows to make.
      process_count: number of equal groups that the rows of a batch are divided into.
      on_batch: called with the statistics of each batch that is read.

    Returns:
      An iterator of batches as `Data.batch_spec(global_batch // process_count)` describes, with
      the sequence length of the step. Examples that cannot be used have `valid` False, a black
      image and an empty text.

    Raises:
      UserError: if a source or a tokenizer cannot be opened, a source is empty or does not suit a
        transform, or the batch cannot be divided among the processes.
    """
    import grain

    parts = _open_parts(data)
    for part in parts:
        for note in _check_records(part, range(min(_CHECKED_RECORDS, len(part.records)))):
            logger.warning("%s", note)
    lengths = [len(part.records) for part in parts]
    loader = Loader(parts=parts, tokenizers=data.load_tokenizers(), seed=seed)
    order = ExampleOrder(
        seed=seed,
        names=[part.name for part in parts],
        lengths=lengths,
        phases=_phases(data.source, lengths),
        global_batch=global_batch,
    )
    return make_batches(
        loader,
        grain.MapDataset.source(order).map(loader.training_example),
        batch_size=global_batch,
        first=start_step,
        process_index=process_index,
        process_count=process_count,
        workers=data.workers,
        prefetch=data.prefetch,
        on_batch=on_batch,
    )


def _open_parts(data: Data) -> tuple[OpenPart, ...]:
    opened = []
    for name, part in parts_of(data.source).items():
        field = f"data.source.parts.{name}" if name else "data.source"
        try:
            records = part.source.open()
        except UserError as error:
            raise error_for_field(error, f"{field}.source" if name else field) from error
        if len(records) == 0:
            raise UserError(f"{field}: {part.source.full_name} has no examples")
        if len(records) > MAX_LENGTH:
            count = f"{len(records):,} examples, more than {MAX_LENGTH:,}"
            raise UserError(f"{field}: {part.source.full_name} has {count}; divide it into parts")
        full_name = f"{name}:{part.source.full_name}" if name else part.source.full_name
        transforms = part.transforms or data.train_transforms
        check_images(records, transforms, field)
        opened.append(OpenPart(full_name, records, transforms))
    return tuple(opened)


def _check_records(part: OpenPart, indices: Sequence[int]) -> Iterator[str]:
    """Notes on the records of a source. Raises UserError if they do not suit a transform."""
    for i, transform in enumerate(part.transforms):
        try:
            yield from transform.check_records(part.records, part.transforms[:i], indices)
        except UserError as error:
            raise UserError(f"data.train_transforms: {part.name}: {error}") from error


@dataclass(frozen=True)
class Sample:
    """A few training examples and what became of them, see `read_sample`."""

    examples: int
    """Number of examples that were read."""
    rejected: tuple[RejectedExample, ...]
    """Those that cannot be used."""
    arrays: dict[str, list[np.ndarray]]
    """Arrays of the others, by name."""
    notes: tuple[str, ...]
    """What transforms note about the records."""


def read_sample(
    data: Data, *, seed: int, most: int, keep: Collection[str] = (), seconds: float = 1.0
) -> Sample:
    """Reads training examples spread evenly over each source, and transforms them as training does.

    >>> from vljax.recipes import Builtin, Decode, Label, Resize
    >>> transforms = (Decode(), Resize(16), Label())
    >>> data = Data(Builtin("train"), {}, transforms, transforms)
    >>> sample = read_sample(data, seed=0, most=10, keep=["label"])
    >>> sample.examples, len(sample.rejected), len(sample.arrays["label"])
    (10, 0, 10)

    Args:
      data: what to read.
      seed: seed of random transforms.
      most: about the number of examples: the same of each source, rounded up.
      keep: names of the arrays to return.
      seconds: time after which no further examples are read, once there are a few.

    Raises:
      UserError: if a source or a tokenizer cannot be opened, a source is empty or does not suit a
        transform.
    """
    parts = _open_parts(data)
    loader = Loader(parts=parts, tokenizers=data.load_tokenizers(), seed=seed)
    count, examples, notes = math.ceil(most / len(parts)), 0, list[str]()
    rejected: list[RejectedExample] = []
    arrays: dict[str, list[np.ndarray]] = {name: [] for name in keep}
    for number, part in enumerate(parts):
        spread = np.unique(np.linspace(0, len(part.records) - 1, count).astype(np.int64))
        notes += _check_records(part, spread.tolist())
        end = time.monotonic() + seconds / len(parts)
        # In random order, so that what is read before the time is up is spread over the source too.
        order = np.random.default_rng(0).permutation(spread).tolist()
        for done, index in enumerate(order):
            if done >= _FEW and time.monotonic() > end:
                break
            example = loader.training_example(ScheduledExample(0, number, 0, index))
            examples += 1
            if example[REJECTED] is not None:
                rejected.append(example[REJECTED])
                continue
            for name in keep:
                arrays[name].append(example[ARRAYS][name])
    rejected.sort(key=lambda one: (one.source, one.index))
    return Sample(examples, tuple(rejected), arrays, tuple(notes))


def _phases(source: Source, lengths: list[int]) -> list[tuple[int, tuple[Fraction, ...]]]:
    """First step and weights of each phase of the schedule."""
    return source.weights(lengths) if isinstance(source, Mixture) else [(0, (Fraction(1),))]


# Increase it when the order of examples or the draws of transforms change for the same recipe.
_STREAM_VERSION = 1


def stream_fingerprint(data: Data, *, seed: int, global_batch: int) -> str:
    """A hash of everything that determines the training batches, stored in checkpoints.

    It covers the content of files but not their paths, and neither `workers` nor `prefetch`.

    Raises:
      UserError: if a source or the tokenizer cannot be opened, or a source is empty.
    """
    parts = _open_parts(data)
    digests = {name: _digests(loaded.files()) for name, loaded in data.load_tokenizers().items()}
    content: dict[str, Any] = {
        "version": _STREAM_VERSION,
        "source": [parts[0].name, len(parts[0].records), parts[0].records.identity],
        "seed": seed,
        "global_batch": global_batch,
        "transforms": _encoded(data.train_transforms),
        "tokenizer": digests.pop("text", None),
    }
    if digests:
        content["tokenizers"] = digests
    if vocabularies := _vocabularies(data):
        content["vocabularies"] = vocabularies
    if isinstance(data.source, Mixture):
        lengths = [len(part.records) for part in parts]
        content["source"] = {
            "parts": [
                [part.name, len(part.records), part.records.identity, _encoded(part.transforms)]
                for part in parts
            ],
            "phases": [
                [step, *(str(weight / sum(weights)) for weight in weights)]
                for step, weights in data.source.weights(lengths)
            ],
        }
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _digests(files: dict[str, bytes]) -> dict[str, str]:
    return {name: hashlib.sha256(content).hexdigest() for name, content in files.items()}


def _vocabularies(data: Data) -> list[tuple[str, ...]]:
    """The content of the vocabularies that are in files, in the order of the recipe."""
    parts = (part.transforms for part in parts_of(data.source).values())
    lists = (data.train_transforms, *parts)
    classes = (transform.classes() for transforms in lists for transform in transforms)
    return [terms(each) for each in classes if isinstance(each, VocabularyFile)]


def _encoded(transforms: tuple[Transform, ...]) -> Any:
    """The transforms, without paths.

    A last `Tokenize()` is left out, as the tokenizer "text" implies it. So streams have the
    fingerprint that they had when tokenization was not a transform.
    """
    encoded = encode(transforms[:-1] if transforms[-1:] == (Tokenize(),) else transforms)
    return [
        {name: _without_path(value) for name, value in transform.items()} for transform in encoded
    ]


def _without_path(value: Any) -> Any:
    return {**value, "path": None} if isinstance(value, dict) and "path" in value else value
