"""Transforms that fix the size of images."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np

from vljax.data.images import Box, Colour, Interpolation, JpegImage, cut, resample
from vljax.data.records import ExampleError
from vljax.data.transforms.base import (
    Arrays,
    Context,
    Example,
    Transform,
    check_colour,
    check_range,
    check_size,
    square_images,
)
from vljax.data.transforms.geometry import crop_regions

# "shortest" enlarges a long strip a few pixels wide so much that it could fill the memory.
_MAX_RESIZED_PIXELS = 64_000_000


@dataclass(frozen=True)
class Resize(Transform, name="resize"):
    """Resize images to a square.

    >>> image = np.zeros((40, 80, 3), np.uint8)
    >>> resize, rng = Resize(20, mode="pad", background=(9, 9, 9)), np.random.default_rng(0)
    >>> resized = resize({"image": image}, rng)["image"]
    >>> resized.shape, resized[:, 0, 0].tolist()  # 20 x 10 pixels in the middle
    ((20, 20, 3), [9, 9, 9, 9, 9, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 9, 9, 9, 9, 9])
    """

    size: int
    """Height and width, pixels."""
    mode: Literal["squash", "shortest", "pad"] = "squash"
    """"squash" ignores the aspect ratio (SigLIP); "shortest" resizes the shortest side to `size`
    and crops the centre (CLIP's evaluation); "pad" resizes the longest side to `size` and pads with
    `background` on both sides."""
    interpolation: Interpolation = "bicubic"
    """The filter, see `vljax.data.images.resample`."""
    antialias: bool = True
    """Whether the filter widens when the image shrinks, as Pillow's does. The `resize` op of
    big_vision does not antialias by default, and is bilinear."""
    background: Colour = (255, 255, 255)
    """Red, green, blue of the padding, 0..255."""
    centre: Literal["round", "floor"] = "round"
    """How "shortest" halves an odd number of pixels to crop: "round" to even, as torchvision and
    open_clip do, or "floor", as transformers does."""

    reads_undecoded = True
    moves_pixels = True

    def arrays(self, context: Context) -> Arrays:
        return square_images(self.size)

    def problems(self) -> Iterator[tuple[str, str]]:
        yield from check_size("size", self.size)
        yield from check_colour("background", self.background)
        if self.interpolation == "area" and not self.antialias:
            yield "antialias", "must be True with interpolation area, which averages pixels"

    def __call__(self, example: Example, rng: np.random.Generator) -> Example:
        image = example["image"]
        old_height, old_width = image.shape[:2]
        height, width = _resized_shape(old_height, old_width, self.size, self.mode)
        image = self._resized(image, height, width)
        top = left = 0  # of the result in the resized image
        if self.mode == "shortest":
            halve = round if self.centre == "round" else math.floor
            top, left = halve((height - self.size) / 2), halve((width - self.size) / 2)
            image = image[top : top + self.size, left : left + self.size]
        elif self.mode == "pad":
            top, left = -((self.size - height) // 2), -((self.size - width) // 2)
            canvas = np.full((self.size, self.size, 3), self.background, np.uint8)
            canvas[-top : height - top, -left : width - left] = image
            image = canvas
        y, x = old_height / height, old_width / width
        box = Box(top * y, left * x, self.size * y, self.size * x)
        return {**example, "image": image, **crop_regions(example, box, self.size, self.size)}

    def _resized(self, image: np.ndarray | JpegImage, height: int, width: int) -> np.ndarray:
        if not isinstance(image, JpegImage):
            return resample(image, height, width, self.interpolation, antialias=self.antialias)
        whole = Box(0, 0, *image.shape[:2])
        if self.antialias:
            return cut(image, whole, height, width, self.interpolation)
        # Without antialiasing the result samples single pixels, so the image is decoded in full.
        pixels = cut(image, whole, *image.shape[:2])
        return resample(pixels, height, width, self.interpolation, antialias=False)


def _resized_shape(height: int, width: int, size: int, mode: str) -> tuple[int, int]:
    if mode == "squash":
        return size, size
    if mode == "shortest":
        # Truncates as torchvision's Resize does.
        shortest = min(height, width)
        resized = int(size * height / shortest), int(size * width / shortest)
        if resized[0] * resized[1] > _MAX_RESIZED_PIXELS:
            message = f"image of {width} x {height} pixels is too long to resize"
            raise ExampleError(message, kind="too_many_pixels")
        return resized
    longest = max(height, width)
    return max(1, round(size * height / longest)), max(1, round(size * width / longest))


@dataclass(frozen=True)
class CentreCrop(Transform, name="centre_crop"):
    """Crop the central square; an odd margin is a pixel smaller at the top and left.

    After `Resize` to a larger size, it is the usual evaluation on ImageNet.

    >>> image = np.zeros((5, 8, 3), np.uint8)
    >>> CentreCrop(4)({"image": image}, np.random.default_rng(0))["image"].shape
    (4, 4, 3)
    """

    size: int
    """Height and width of the output, pixels."""

    moves_pixels = True

    def arrays(self, context: Context) -> Arrays:
        return square_images(self.size)

    def problems(self) -> Iterator[tuple[str, str]]:
        yield from check_size("size", self.size)

    def __call__(self, example: Example, rng: np.random.Generator) -> Example:
        image = example["image"]
        height, width = image.shape[:2]
        if min(height, width) < self.size:
            sides = f"{self.size} pixels cannot be cut out of {width} x {height}"
            raise ExampleError(sides, kind="too_small")
        top, left = (height - self.size) // 2, (width - self.size) // 2
        regions = crop_regions(example, Box(top, left, self.size, self.size), self.size, self.size)
        image = image[top : top + self.size, left : left + self.size]
        return {**example, "image": image, **regions}


@dataclass(frozen=True)
class RandomCrop(Transform, name="random_crop"):
    """Resize the shortest side, then crop a random square of that size.

    CLIP's "random square crop from resized images" (Radford et al. 2021, section 2.3): the square
    moves along the longest side only, uniformly. `Resize` with "shortest" crops its centre.

    >>> image = np.zeros((40, 80, 3), np.uint8)
    >>> image[:, 40:] = 255  # the right half is white
    >>> crop, rng = RandomCrop(4), np.random.default_rng(0)
    >>> [int(crop({"image": image}, rng)["image"].mean()) for _ in range(3)]
    [250, 191, 127]
    """

    size: int
    """Height and width of the output, pixels."""
    interpolation: Interpolation = "bicubic"
    """The filter, always antialiased; see `vljax.data.images.resample`."""

    reads_undecoded = True
    moves_pixels = True

    def arrays(self, context: Context) -> Arrays:
        return square_images(self.size)

    def problems(self) -> Iterator[tuple[str, str]]:
        yield from check_size("size", self.size)

    def __call__(self, example: Example, rng: np.random.Generator) -> Example:
        image = example["image"]
        height, width = _resized_shape(image.shape[0], image.shape[1], self.size, "shortest")
        top = int(rng.integers(0, height - self.size + 1))
        left = int(rng.integers(0, width - self.size + 1))
        y, x = image.shape[0] / height, image.shape[1] / width
        box = Box(top * y, left * x, self.size * y, self.size * x)
        if isinstance(image, JpegImage):
            image = cut(image, box, self.size, self.size, self.interpolation)
        else:
            image = resample(image, height, width, self.interpolation)
            image = image[top : top + self.size, left : left + self.size]
        return {**example, "image": image, **crop_regions(example, box, self.size, self.size)}


@dataclass(frozen=True)
class RandomResizedCrop(Transform, name="random_resized_crop"):
    """Crop a random rectangle and resize it to a square.

    The rectangle is drawn as in Szegedy et al. 2015 and torchvision: its area uniformly, its
    aspect ratio uniformly on a logarithmic scale. If ten draws do not fit, the largest central
    rectangle with an allowed ratio is used.

    >>> crop = RandomResizedCrop(32, scale=(0.5, 1.0))
    >>> crop.rectangle(100, 200, np.random.default_rng(0))  # top, left, height, width
    (0, 33, 100, 133)
    >>> image = np.zeros((100, 200, 3), np.uint8)
    >>> crop({"image": image}, np.random.default_rng(0))["image"].shape
    (32, 32, 3)
    """

    size: int
    """Height and width of the output, pixels."""
    scale: tuple[float, float] = (0.9, 1.0)
    """Smallest and largest area as a fraction of the image."""
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    """Smallest and largest width / height."""
    interpolation: Interpolation = "bicubic"
    """The filter, always antialiased; see `vljax.data.images.resample`."""

    reads_undecoded = True
    moves_pixels = True

    def arrays(self, context: Context) -> Arrays:
        return square_images(self.size)

    def problems(self) -> Iterator[tuple[str, str]]:
        yield from check_size("size", self.size)
        yield from check_range("scale", self.scale)
        yield from check_range("ratio", self.ratio)
        if self.scale[1] > 1:
            yield "scale", f"must not exceed 1, the whole image, got {self.scale[1]}"

    def __call__(self, example: Example, rng: np.random.Generator) -> Example:
        image = example["image"]
        box = Box(*self.rectangle(image.shape[0], image.shape[1], rng))
        regions = crop_regions(example, box, self.size, self.size)
        image = cut(image, box, self.size, self.size, self.interpolation)
        return {**example, "image": image, **regions}

    def rectangle(
        self, height: int, width: int, rng: np.random.Generator
    ) -> tuple[int, int, int, int]:
        """Draw top, left, height and width of the rectangle in an image of this size, pixels."""
        for _ in range(10):
            area = height * width * rng.uniform(*self.scale)
            ratio = math.exp(rng.uniform(math.log(self.ratio[0]), math.log(self.ratio[1])))
            crop_width, crop_height = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
            if 0 < crop_width <= width and 0 < crop_height <= height:
                top = int(rng.integers(0, height - crop_height + 1))
                left = int(rng.integers(0, width - crop_width + 1))
                return top, left, crop_height, crop_width
        ratio = min(max(width / height, self.ratio[0]), self.ratio[1])
        crop_width = max(1, min(width, round(height * ratio)))
        crop_height = max(1, min(height, round(width / ratio)))
        return (height - crop_height) // 2, (width - crop_width) // 2, crop_height, crop_width
