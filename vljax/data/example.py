"""One example of a batch: read, transformed, tokenized; or masked out with a reason."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from jaxtyping import Int64, UInt32

from vljax.data.order import Visit
from vljax.data.randomness import Step, example_generator
from vljax.data.source_base import ExampleError, Records
from vljax.data.tokenizer_base import LoadedTokenizer
from vljax.data.transform_base import Transform

# The keys under which travels with a batch what is no part of it: rejected examples, and which
# have been seen before.
REJECTED = "rejected"
REPEATED = "repeated"
PADDING_INDEX = -1


@dataclass(frozen=True)
class Rejected:
    """Why an example was masked out.

    Attributes:
      row: of the batch.
      source: the name of its source.
      identity: of the records of the source.
      index: of the example in the source.
      kind: the class of reasons, see `ExampleError`.
      reason: for people.
    """

    row: int
    source: str
    identity: str
    index: int
    kind: str
    reason: str


@dataclass(frozen=True)
class OpenPart:
    """An opened source, and what is done to its examples.

    Attributes:
      name: in messages and in the keys of random numbers.
      records: by index.
      transforms: from record to `image` and `text`.
    """

    name: str
    records: Records
    transforms: tuple[Transform, ...]


@dataclass(frozen=True)
class Loader:
    """Makes examples by index, and batches of them. Travels to worker processes.

    Attributes:
      parts: the opened sources.
      tokenizer: makes the ids.
      size: height and width of the images, pixels.
      seed: of the random numbers.
      evaluation: whether batches have a `label` and keep images without a text as valid, to be
        classified; training has no use for these.
    """

    parts: tuple[OpenPart, ...]
    tokenizer: LoadedTokenizer
    size: int
    seed: int
    evaluation: bool = False

    def visit(self, visit: Visit) -> dict[str, Any]:
        """An example for training, masked out if it cannot be used."""
        start = {"step": Step(self.seed, visit.step)}
        return self._load(visit.part, visit.epoch, visit.record, start)

    def evaluate(self, index: int) -> dict[str, Any]:
        """An example for evaluation; past the end, one that is masked out."""
        if index >= len(self.parts[0].records):
            return self._example(0, PADDING_INDEX, None, "")
        return self._load(0, 0, index, {})

    def _load(self, number: int, epoch: int, index: int, start: dict[str, Any]) -> dict[str, Any]:
        part, label = self.parts[number], None
        try:
            if self.evaluation:
                label = part.records.annotation(index).label
            image, text = self._transformed(part, epoch, index, start)
        except ExampleError as error:
            rejected = Rejected(0, part.name, part.records.identity, index, error.kind, str(error))
            return self._example(number, index, None, "", label, epoch, rejected)
        return self._example(number, index, image, text, label, epoch)

    def _transformed(
        self, part: OpenPart, epoch: int, index: int, start: dict[str, Any]
    ) -> tuple[np.ndarray, str]:
        example: dict[str, Any] = {"record": part.records[index], **start}
        rng = example_generator(self.seed, part.name, epoch, index)
        for transform in part.transforms:
            try:
                example = transform(example, rng)
            except ExampleError:
                if not self.evaluation or transform.provides != "text":
                    raise
                example = {**example, "text": ""}
        image, text = example["image"], example["text"]
        if image.shape != (self.size, self.size, 3) or image.dtype != np.uint8:
            raise ValueError(
                f"transforms made {image.dtype}{list(image.shape)} of example "
                f"{part.name}/{index}, expected uint8[{self.size}, {self.size}, 3]"
            )
        if not self.evaluation and not self.tokenizer.clean(text):
            raise ExampleError(f"text {text!r} is empty after cleaning", kind="no_caption")
        return image, text

    def _example(
        self,
        part: int,
        index: int,
        image: np.ndarray | None,
        text: str,
        label: int | None = None,
        epoch: int = 0,
        rejected: Rejected | None = None,
    ) -> dict[str, Any]:
        return {
            "image": np.zeros((self.size, self.size, 3), np.uint8) if image is None else image,
            "text": text,
            "part": part,
            "example_id": index,
            "valid": image is not None,
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
        batch = {
            "image": np.stack(column["image"]),
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
