"""One example of a batch: read, transformed, tokenized; or masked out with a reason."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Int64, UInt32

from vljax.data.randomness import example_generator
from vljax.data.source_base import ExampleError, Records
from vljax.data.tokenizer_base import LoadedTokenizer
from vljax.data.transform_base import Transform

# The key under which rejected examples travel with a batch until they are logged.
REJECTED = "rejected"
PADDING_INDEX = -1


@dataclass(frozen=True)
class Rejected:
    """Why an example was masked out."""

    index: int
    reason: str


@dataclass(frozen=True)
class Loader:
    """Makes examples by index, and batches of them. Travels to worker processes.

    Attributes:
      records: the opened source.
      source: its full name.
      transforms: from record to `image` and `text`.
      tokenizer: makes the ids.
      size: height and width of the images, pixels.
      seed: of the random numbers.
      evaluation: whether batches have a `label` and keep images without a text as valid, to be
        classified; training has no use for these.
    """

    records: Records
    source: str
    transforms: tuple[Transform, ...]
    tokenizer: LoadedTokenizer
    size: int
    seed: int
    evaluation: bool = False

    def at_position(self, position: int, index: int) -> dict[str, Any]:
        """The example at a position of the endless stream, which tells its epoch."""
        return self.load(position // len(self.records), index)

    def evaluate(self, index: int) -> dict[str, Any]:
        """An example for evaluation; past the end, one that is masked out."""
        if index >= len(self.records):
            return self._example(PADDING_INDEX, None, "")
        return self.load(0, index)

    def load(self, epoch: int, index: int) -> dict[str, Any]:
        """The example, masked out if it cannot be used."""
        label = self.records.annotation(index).label
        try:
            image, text = self._transformed(epoch, index)
        except ExampleError as error:
            return self._example(index, None, "", label, Rejected(index, str(error)))
        return self._example(index, image, text, label)

    def _transformed(self, epoch: int, index: int) -> tuple[np.ndarray, str]:
        example: dict[str, Any] = {"record": self.records[index]}
        rng = example_generator(self.seed, self.source, epoch, index)
        for transform in self.transforms:
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
                f"{self.source}/{index}, expected uint8[{self.size}, {self.size}, 3]"
            )
        if not self.evaluation and not self.tokenizer.clean(text):
            raise ExampleError(f"text {text!r} is empty after cleaning")
        return image, text

    def _example(
        self,
        index: int,
        image: np.ndarray | None,
        text: str,
        label: int | None = None,
        rejected: Rejected | None = None,
    ) -> dict[str, Any]:
        return {
            "image": np.zeros((self.size, self.size, 3), np.uint8) if image is None else image,
            "text": text,
            "example_id": index,
            "valid": image is not None,
            "label": -1 if label is None else label,
            REJECTED: rejected,
        }

    def batch(self, examples: Sequence[dict[str, Any]]) -> dict[str, Any]:
        """Examples stacked and tokenized, with the rejected ones as a tuple under `REJECTED`."""
        column = {key: [example[key] for example in examples] for key in examples[0]}
        ids, mask = self.tokenizer(column["text"])
        batch = {
            "image": np.stack(column["image"]),
            "text": ids,
            "text_mask": mask,
            "example_id": pack_ids(np.array(column["example_id"], np.int64)),
            "valid": np.array(column["valid"], bool),
            REJECTED: tuple(rejected for rejected in column[REJECTED] if rejected is not None),
        }
        if self.evaluation:
            batch["label"] = np.array(column["label"], np.int32)
        return batch


def pack_ids(
    indices: Int64[np.ndarray, " batch"], source_number: int = 0
) -> UInt32[np.ndarray, "batch 2"]:
    """Example ids for the device, which has no 64-bit integers.

    Args:
      indices: below 2**48; -1 for padding.
      source_number: the number of the source in the recipe, below 2**16.

    Returns:
      High and low half of `source_number << 48 | index`; all ones for padding.
    """
    ids = np.where(indices < 0, -1, indices | (source_number << 48)).astype(np.uint64)
    halves = np.stack([ids >> np.uint64(32), ids & np.uint64(0xFFFFFFFF)], axis=-1)
    return halves.astype(np.uint32)


def unpack_ids(ids: UInt32[np.ndarray, "batch 2"]) -> Int64[np.ndarray, " batch"]:
    """The inverse of `pack_ids`: `source_number << 48 | index`, -1 for padding."""
    return (ids[..., 0].astype(np.int64) << 32) | ids[..., 1].astype(np.int64)
