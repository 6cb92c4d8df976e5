"""The base class of transforms, and checks of their fields."""

from __future__ import annotations

import abc
from collections.abc import Iterator, Sequence
from typing import Any, ClassVar

import numpy as np

from vljax.config import Component, UserError
from vljax.data.images import Colour
from vljax.data.randomness import Step

Example = dict[str, Any]
Arrays = dict[str, tuple[tuple[int, ...], np.dtype[Any]]]
"""Name -> shape and type."""


class Transform(Component, abc.ABC):
    """A step from a record to an example; subclasses are frozen dataclasses.

    The first transform gets `{"record": Record}`. In training it also gets `step`, the
    `randomness.Step` of the batch, which gives all examples of a batch the same random numbers. All
    other randomness comes from the generator that is passed in. Later transforms get `image`,
    uint8[height, width, 3], and `text`, a string. After `Decode` with `scaled`, `image` is a
    `JpegImage` until the next transform of images.

    >>> from dataclasses import dataclass
    >>> @dataclass(frozen=True)
    ... class Invert(Transform):  # with name="invert", a recipe file can define its own
    ...     def __call__(self, example, rng):
    ...         return {**example, "image": 255 - example["image"]}
    >>> Invert()({"image": np.full((1, 1, 3), 55, np.uint8)}, np.random.default_rng())["image"]
    array([[[200, 200, 200]]], dtype=uint8)
    """

    # "image" or "text" if the transform makes it; used to check a list of transforms before a run.
    provides: ClassVar[str | None] = None

    # Whether the transform accepts a `JpegImage`, whose pixels are not decoded yet, as `image`.
    reads_undecoded: ClassVar[bool] = False

    @property
    def output_size(self) -> int | None:
        """Height and width of the square output images; None if the transform does not fix them."""
        return None

    @property
    def image_lengths(self) -> dict[int, float]:
        """Sequence lengths in training -> probability; empty if images are not sequences."""
        return {}

    def length_at(self, step: Step | None) -> int | None:
        """Sequence length in the batch of a step; None if images are not sequences.

        Args:
          step: the step; None means evaluation.
        """
        return None

    def image_arrays(self, length: int | None = None) -> Arrays | None:
        """Arrays of an output image; None if the transform does not fix them.

        Args:
          length: sequence length; by default that of evaluation.
        """
        size = self.output_size
        return None if size is None else {"image": ((size, size, 3), np.dtype(np.uint8))}

    def blank(self, length: int | None = None) -> dict[str, np.ndarray]:
        """The arrays of a black image, which replaces an image that cannot be used."""
        arrays = self.image_arrays(length) or {}
        return {name: np.zeros(shape, dtype) for name, (shape, dtype) in arrays.items()}

    @property
    def makes(self) -> str | None:
        """Description of the output images; None if the transform does not fix them."""
        return None if self.output_size is None else f"images of {self.output_size} pixels"

    @abc.abstractmethod
    def __call__(self, example: Example, rng: np.random.Generator) -> Example:
        """Return a new example. Raises ExampleError if the record cannot be used."""


def image_transform(transforms: Sequence[Transform]) -> Transform:
    """The last transform of a list that fixes the arrays of an image.

    Raises:
      UserError: if there is none.
    """
    for transform in reversed(transforms):
        if transform.makes is not None:
            return transform
    raise UserError("transforms: none of them fixes the image size; add resize or patchify")


def check_colour(field: str, colour: Colour) -> Iterator[tuple[str, str]]:
    """Yield a problem if a channel is outside 0..255."""
    if not all(0 <= channel <= 255 for channel in colour):
        yield field, f"channels must be within 0 and 255, got {colour}"


def check_probability(field: str, value: float) -> Iterator[tuple[str, str]]:
    """Yield a problem if the value is not a probability."""
    if not 0 <= value <= 1:
        yield field, f"must be within 0 and 1, got {value}"


def check_range(field: str, value: tuple[float, float]) -> Iterator[tuple[str, str]]:
    """Yield a problem if the two values are not positive and in order."""
    if not 0 < value[0] <= value[1]:
        yield field, f"must be two positive numbers in order, got {value}"


def check_size(field: str, value: int) -> Iterator[tuple[str, str]]:
    """Yield a problem if a size is below 1 pixel."""
    if value < 1:
        yield field, f"must be at least 1 pixel, got {value}"
