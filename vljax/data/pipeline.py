"""From the data of a recipe to batches: an exact global order, the same for any set-up.

Batch k of a run is a pure function of the data, the seed and k. Position p of the endless stream of
examples belongs to epoch `p // n` of a source with n examples, each epoch is a permutation, and
batch k is the positions from `k * global_batch` on. A process makes its own contiguous part of each
batch, so the parts in process order are the batch that one process would make, row by row.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from vljax.config import UserError, encode, setting
from vljax.data.batching import Batches, make_batches
from vljax.data.example import Loader
from vljax.data.randomness import shuffle_seed
from vljax.data.source_base import Source
from vljax.data.tokenizer_base import Tokenizer
from vljax.data.transform_base import Transform
from vljax.data.transform_order import order_problems


@dataclass(frozen=True)
class Data:
    """What a model is trained on.

    Attributes:
      source: the training examples.
      tokenizer: for all texts, in evaluation too.
      train_transforms: from record to `image` and `text`, in order.
      eval_transforms: the same for evaluation; they travel with checkpoints.
      workers: processes that prepare batches; 0 prepares them in threads of this process.
      prefetch: batches prepared ahead (by each worker, where there are any).
    """

    source: Source
    tokenizer: Tokenizer
    train_transforms: tuple[Transform, ...]
    eval_transforms: tuple[Transform, ...]
    workers: int = setting(0, identity=False)
    prefetch: int = setting(2, identity=False)

    @property
    def image_size(self) -> int:
        """Height and width of the images in batches, pixels."""
        size = output_size(self.train_transforms)
        if size is None:
            raise UserError("data.train_transforms: none of them fixes the image size")
        return size

    def problems(self) -> Iterator[tuple[str, str]]:
        for field in ("train_transforms", "eval_transforms"):
            yield from ((field, message) for message in _list_problems(getattr(self, field)))
        sizes = output_size(self.train_transforms), output_size(self.eval_transforms)
        if None not in sizes and sizes[0] != sizes[1]:
            yield (
                "eval_transforms",
                f"make images of {sizes[1]} pixels, train_transforms of {sizes[0]}",
            )
        if self.workers < 0:
            yield "workers", f"must be 0 or more, got {self.workers}"
        if self.prefetch < 1:
            yield "prefetch", f"must be at least 1, got {self.prefetch}"

    def batch_spec(self, batch_size: int) -> dict[str, tuple[tuple[int, ...], np.dtype[Any]]]:
        """Name -> shape and dtype of the arrays in a training batch; opens no file."""
        text = (batch_size, self.tokenizer.context_length)
        return {
            "image": ((batch_size, self.image_size, self.image_size, 3), np.dtype(np.uint8)),
            "text": (text, np.dtype(np.int32)),
            "text_mask": (text, np.dtype(bool)),
            "example_id": ((batch_size, 2), np.dtype(np.uint32)),
            "valid": ((batch_size,), np.dtype(bool)),
        }


def output_size(transforms: tuple[Transform, ...]) -> int | None:
    """Height and width of the images that a list of transforms makes, if it fixes them."""
    sizes = [transform.output_size for transform in transforms]
    return next((size for size in reversed(sizes) if size is not None), None)


def _list_problems(transforms: tuple[Transform, ...]) -> Iterator[str]:
    if not transforms or transforms[0].provides != "image":
        yield "must begin with decode"
    if output_size(transforms) is None:
        yield "none of them fixes the image size; add resize, random_crop or random_resized_crop"
    if not any(transform.provides == "text" for transform in transforms):
        yield "none of them makes a text; add choose_text"
    yield from order_problems(transforms)


def train_batches(
    data: Data,
    *,
    seed: int,
    global_batch: int,
    start_step: int = 0,
    process_index: int = 0,
    process_count: int = 1,
) -> Batches:
    """The training batches from `start_step` on, without end; it starts there at once.

    Args:
      data: what to read.
      seed: of the order and of all draws.
      global_batch: examples in a batch over all processes.
      start_step: the number of the first batch.
      process_index: which part of each batch to make.
      process_count: into how many parts the batches are divided.

    Returns:
      An iterator of batches as `Data.batch_spec(global_batch // process_count)` says. Examples
      that cannot be used have `valid` False, a black image and an empty text.

    Raises:
      UserError: if the source or tokenizer cannot be opened, the source is empty, or the batch
        does not divide by the processes.
    """
    import grain

    records = data.source.open()
    if len(records) == 0:
        raise UserError(f"data.source: {data.source.full_name} has no examples")
    loader = Loader(
        records=records,
        source=data.source.full_name,
        transforms=data.train_transforms,
        tokenizer=data.tokenizer.load(),
        size=data.image_size,
        seed=seed,
    )
    stream = (
        grain.MapDataset.source(range(len(records)))
        .shuffle(seed=shuffle_seed(seed, loader.source))
        .repeat(None)
        .map_with_index(loader.at_position)
    )
    return make_batches(
        loader,
        stream,
        batch_size=global_batch,
        first=start_step,
        process_index=process_index,
        process_count=process_count,
        workers=data.workers,
        prefetch=data.prefetch,
    )


# Goes up when the order of examples or the draws of transforms change for the same recipe.
_PLAN_VERSION = 1


def plan(data: Data, *, seed: int, global_batch: int) -> str:
    """A hash of all that determines the stream of training batches, to store with a position.

    The place of files does not enter, their content does. Workers and prefetch do not enter.

    Raises:
      UserError: if the source or tokenizer cannot be opened.
    """
    records = data.source.open()
    files = data.tokenizer.load().files()
    content = {
        "version": _PLAN_VERSION,
        "source": [data.source.full_name, len(records), records.identity],
        "seed": seed,
        "global_batch": global_batch,
        "transforms": encode(data.train_transforms),
        "tokenizer": {name: hashlib.sha256(file).hexdigest() for name, file in files.items()},
    }
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
