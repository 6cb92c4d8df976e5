"""What a transform is."""

from __future__ import annotations

import abc
from collections.abc import Iterator
from typing import Any, ClassVar

import numpy as np

from vljax.config import Component

Example = dict[str, Any]
Colour = tuple[int, int, int]


class Transform(Component, abc.ABC):
    """A step from a record to an example. Members are frozen dataclasses.

    The first one is given `{"record": Record}`. Afterwards `image` is uint8[height, width, 3] and
    `text` a string. After a scaled decode, `image` is a `JpegImage` until the next transform on
    images. All randomness comes from the generator that is passed in.
    """

    # What a transform does to `image` or `text`, so that a list can be checked before it runs.
    provides: ClassVar[str | None] = None

    # Whether `image` may be a file whose header only was read.
    reads_undecoded: ClassVar[bool] = False

    @property
    def output_size(self) -> int | None:
        """Height and width of the square images that come out, if this fixes them."""
        return None

    @abc.abstractmethod
    def __call__(self, example: Example, rng: np.random.Generator) -> Example:
        """A new example. Raises ExampleError if the record cannot be used."""


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
