"""What a transform is."""

from __future__ import annotations

import abc
from collections.abc import Iterator, Sequence
from typing import Any, ClassVar

import numpy as np

from vljax.config import Component, UserError
from vljax.data.images.decoding import Colour
from vljax.data.randomness import Step

Example = dict[str, Any]
Arrays = dict[str, tuple[tuple[int, ...], np.dtype[Any]]]
"""Name -> shape and type."""


class Transform(Component, abc.ABC):
    """A step from a record to an example. Members are frozen dataclasses.

    The first one is given `{"record": Record}`, and in training `step`: the `randomness.Step` that
    the example is for, by which all examples of a batch can draw the same. Afterwards `image` is
    uint8[height, width, 3] and `text` a string; after a scaled decode, `image` is a `JpegImage`
    until the next transform on images. All other randomness comes from the generator that is passed
    in.
    """

    # What a transform does to `image` or `text`, so that a list can be checked before it runs.
    provides: ClassVar[str | None] = None

    # Whether `image` may be a file whose header only was read.
    reads_undecoded: ClassVar[bool] = False

    @property
    def output_size(self) -> int | None:
        """Height and width of the square images that come out, if this fixes them."""
        return None

    @property
    def image_lengths(self) -> dict[int, float]:
        """The lengths that sequences of patches may have in training, and how likely each is.

        Empty where an image is no sequence.
        """
        return {}

    def length_at(self, step: Step | None) -> int | None:
        """The length of sequences in the batch of a step; without a step, that of evaluation."""
        return None

    def image_arrays(self, length: int | None = None) -> Arrays | None:
        """What an image is afterwards, if this fixes it; by default in evaluation."""
        size = self.output_size
        return None if size is None else {"image": ((size, size, 3), np.dtype(np.uint8))}

    def blank(self, length: int | None = None) -> dict[str, np.ndarray]:
        """The arrays of an image that is not there: black."""
        arrays = self.image_arrays(length) or {}
        return {name: np.zeros(shape, dtype) for name, (shape, dtype) in arrays.items()}

    @property
    def makes(self) -> str | None:
        """In words, what images are afterwards, if this fixes it."""
        return None if self.output_size is None else f"images of {self.output_size} pixels"

    @abc.abstractmethod
    def __call__(self, example: Example, rng: np.random.Generator) -> Example:
        """A new example. Raises ExampleError if the record cannot be used."""


def image_transform(transforms: Sequence[Transform]) -> Transform:
    """The one of a list that fixes what an image is in a batch: the last that can.

    Raises:
      UserError: if none does.
    """
    for transform in reversed(transforms):
        if transform.makes is not None:
            return transform
    raise UserError("transforms: none of them fixes the image size; add resize or patchify")


def check_colour(field: str, colour: Colour) -> Iterator[tuple[str, str]]:
    """A problem if a channel is outside 0..255."""
    if not all(0 <= channel <= 255 for channel in colour):
        yield field, f"channels must be within 0 and 255, got {colour}"


def check_probability(field: str, value: float) -> Iterator[tuple[str, str]]:
    """A problem if the value is no probability."""
    if not 0 <= value <= 1:
        yield field, f"must be within 0 and 1, got {value}"


def check_range(field: str, value: tuple[float, float]) -> Iterator[tuple[str, str]]:
    """A problem if the two values are not positive and in order."""
    if not 0 < value[0] <= value[1]:
        yield field, f"must be two positive numbers in order, got {value}"


def check_size(field: str, value: int) -> Iterator[tuple[str, str]]:
    """A problem if there would be no pixel."""
    if value < 1:
        yield field, f"must be at least 1 pixel, got {value}"
