"""The training data of a recipe, and its batches in one global order for any number of processes.

The way from records to a batch, by file:

- `data/sources/`: open a data set, and read the record at an index;
- `data/pipeline/order.py`: find the source, epoch and index at a position of the stream;
- `data/transforms/`: decode, augment and resize the image, and choose the text;
- `data/tokenizers/`: clean the text and turn it into token ids;
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
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np

from vljax.config import UserError, encode, setting
from vljax.data.pipeline.batches import Batches, Loader, OnBatch, OpenPart, make_batches
from vljax.data.pipeline.order import MAX_LENGTH, ExampleOrder
from vljax.data.randomness import Step
from vljax.data.records import Source, error_for_field
from vljax.data.sources.mixture import Mixture, parts_of
from vljax.data.tokenizers.base import Tokenizer
from vljax.data.transforms.base import Transform, image_transform
from vljax.data.transforms.decode import Decode
from vljax.data.transforms.text import Prompt


@dataclass(frozen=True)
class Data:
    """The training data, and how images and texts become arrays.

    >>> from vljax.recipes import Builtin, ChooseText, Clip, Decode, Flip, Resize
    >>> data = Data(
    ...     source=Builtin("train"),
    ...     tokenizer=Clip(context_length=32),
    ...     train_transforms=(Decode(), Resize(64), Flip(), ChooseText("random")),
    ...     eval_transforms=(Decode(), Resize(64), ChooseText()),
    ... )
    >>> {name: shape for name, (shape, dtype) in data.batch_spec(8).items()}
    {'image': (8, 64, 64, 3), 'text': (8, 32), 'text_mask': (8, 32), 'example_id': (8, 2),
     'valid': (8,)}
    """

    source: Source
    """The training examples; several sources together are a `mixture`."""
    tokenizer: Tokenizer
    """The tokenizer of all texts, in evaluation too."""
    train_transforms: tuple[Transform, ...]
    """Transforms from a record to `image` and `text`, in order; a part of a mixture may have its
    own."""
    eval_transforms: tuple[Transform, ...]
    """The same for evaluation; stored in checkpoints."""
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
        return image_transform(self.train_transforms).image_lengths

    def length_at(self, seed: int, step: int) -> int | None:
        """The sequence length of images in the batch of a step; None for square images."""
        return image_transform(self.train_transforms).length_at(Step(seed, step))

    def batch_spec(
        self, batch_size: int, length: int | None = None
    ) -> dict[str, tuple[tuple[int, ...], np.dtype[Any]]]:
        """Name -> shape and dtype of the arrays in a training batch; opens no file.

        Args:
          batch_size: number of examples.
          length: sequence length of images; by default the longest.
        """
        text = (batch_size, self.tokenizer.context_length)
        image = image_transform(self.train_transforms).image_arrays(length) or {}
        return {
            **{name: ((batch_size, *shape), dtype) for name, (shape, dtype) in image.items()},
            "text": (text, np.dtype(np.int32)),
            "text_mask": (text, np.dtype(bool)),
            "example_id": ((batch_size, 2), np.dtype(np.uint32)),
            "valid": ((batch_size,), np.dtype(bool)),
        }

    def problems(self) -> Iterator[tuple[str, str]]:
        for field in ("train_transforms", "eval_transforms"):
            yield from ((field, message) for message in _list_problems(getattr(self, field)))
        made = _image_format(self.train_transforms), _image_format(self.eval_transforms)
        if None not in made and made[0] != made[1]:
            yield "eval_transforms", f"make {made[1]}, train_transforms {made[0]}"
        yield from self._part_problems()
        if not 0 <= self.max_rejected_share <= 1:
            yield "max_rejected_share", f"must be within 0 and 1, got {self.max_rejected_share}"
        if self.workers < 0:
            yield "workers", f"must be 0 or more, got {self.workers}"
        if self.prefetch < 1:
            yield "prefetch", f"must be at least 1, got {self.prefetch}"

    def _part_problems(self) -> Iterator[tuple[str, str]]:
        expected = _image_format(self.train_transforms)
        for name, part in parts_of(self.source).items():
            field = f"source.parts.{name}.transforms"
            if not part.transforms:
                continue
            yield from ((field, message) for message in _list_problems(part.transforms))
            made = _image_format(part.transforms)
            if made != expected:
                yield field, f"make {made}, train_transforms {expected}"
            elif made and image_transform(part.transforms).image_lengths != self.image_lengths:
                yield field, "patchify has other lengths or weights than in train_transforms"


def _image_format(transforms: tuple[Transform, ...]) -> str | None:
    """Description of the images that transforms make, such as "images of 64 pixels"; or None."""
    made = [transform.makes for transform in transforms if transform.makes is not None]
    return made[-1] if made else None


def _list_problems(transforms: tuple[Transform, ...]) -> Iterator[str]:
    """Problems of a list of transforms as a whole."""
    if not transforms or transforms[0].provides != "image":
        yield "must begin with decode"
    if _image_format(transforms) is None:
        sizing = "resize, random_crop, random_resized_crop or patchify"
        yield f"none of them fixes the image size; add {sizing}"
    if not any(transform.provides == "text" for transform in transforms):
        yield "none of them makes a text; add choose_text"
    for i, transform in enumerate(transforms):
        before, after = transforms[:i], transforms[i + 1 :]
        on_images = [t for t in after if t.provides != "text"]
        if transform.image_lengths and on_images:
            name = on_images[0].type_name
            yield f"{name} cannot follow {transform.type_name}, which leaves no picture; swap"
        if isinstance(transform, Prompt) and all(t.provides != "text" for t in before):
            yield "prompt has no text to put into a template; put choose_text before it"
        scaled = isinstance(transform, Decode) and transform.scaled
        if scaled and on_images and not on_images[0].reads_undecoded:
            able = sorted(
                name
                for name, kind in Transform.members.items()
                if issubclass(kind, Transform) and kind.reads_undecoded
            )
            yield (
                f"{on_images[0].type_name} needs all pixels, but decode is scaled; put one of "
                f"{', '.join(able)} between them, or set scaled of decode to False"
            )


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
      UserError: if a source or the tokenizer cannot be opened, a source is empty, or the batch
        cannot be divided among the processes.
    """
    import grain

    parts = _open_parts(data)
    lengths = [len(part.records) for part in parts]
    loader = Loader(parts=parts, tokenizer=data.tokenizer.load(), seed=seed)
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
        opened.append(OpenPart(full_name, records, part.transforms or data.train_transforms))
    return tuple(opened)


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
    files = data.tokenizer.load().files()
    content: dict[str, Any] = {
        "version": _STREAM_VERSION,
        "source": [parts[0].name, len(parts[0].records), parts[0].records.identity],
        "seed": seed,
        "global_batch": global_batch,
        "transforms": encode(data.train_transforms),
        "tokenizer": {name: hashlib.sha256(file).hexdigest() for name, file in files.items()},
    }
    if isinstance(data.source, Mixture):
        lengths = [len(part.records) for part in parts]
        content["source"] = {
            "parts": [
                [part.name, len(part.records), part.records.identity, encode(part.transforms)]
                for part in parts
            ],
            "phases": [
                [step, *(str(weight / sum(weights)) for weight in weights)]
                for step, weights in data.source.weights(lengths)
            ],
        }
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
