"""Image files to pixels."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from vljax.data.images import (
    LARGEST_CACHED_PIXELS,
    MAX_PIXELS,
    Colour,
    JpegImage,
    check_pixels,
    decode_image,
    image_errors,
)
from vljax.data.transforms.base import Example, Transform, check_colour


@dataclass(frozen=True)
class Decode(Transform, name="decode"):
    """Decode the image file, turn it by its EXIF orientation, and put it on a background.

    >>> from io import BytesIO
    >>> from PIL import Image
    >>> from vljax.data.records import Record
    >>> file = BytesIO()
    >>> Image.new("RGBA", (3, 2), (0, 0, 0, 0)).save(file, "PNG")  # transparent
    >>> record = Record(captions=("nothing",), image=file.getvalue())
    >>> decode, rng = Decode(background=(255, 0, 0)), np.random.default_rng(0)
    >>> image = decode({"record": record}, rng)["image"]
    >>> image.shape, image[0, 0].tolist()
    ((2, 3, 3), [255, 0, 0])
    """

    background: Colour = (255, 255, 255)
    """Red, green, blue behind transparent pixels, 0..255."""
    random_background: bool = False
    """Whether each image gets a random background instead."""
    max_pixels: int = MAX_PIXELS
    """Larger images are refused before they are decoded."""
    scaled: bool = False
    """Whether large JPEGs are decoded at 1/2, 1/4 or 1/8 of their size (libjpeg's scaled inverse
    DCT) if that is enough for the next transform, which must fix the image size. This is faster and
    gives nearly the same pixels. Images of at most 256 x 256 pixels are decoded in full and
    cached."""

    def reads(self) -> tuple[str, ...]:
        return ("record",)

    def problems(self) -> Iterator[tuple[str, str]]:
        yield from check_colour("background", self.background)
        if self.max_pixels < 1:
            yield "max_pixels", f"must be at least 1, got {self.max_pixels}"

    def __call__(self, example: Example, rng: np.random.Generator) -> Example:
        background = self.background
        if self.random_background:
            red, green, blue = rng.integers(0, 256, 3).tolist()
            background = (red, green, blue)
        content = example["record"].image
        image: np.ndarray | JpegImage | None = self._undecoded(content) if self.scaled else None
        if image is None:
            image = decode_image(content, background, self.max_pixels)
        return {**example, "image": image}

    def _undecoded(self, content: bytes) -> JpegImage | None:
        with image_errors():
            image = JpegImage.open(content)
        if image is None or image.shape[0] * image.shape[1] <= LARGEST_CACHED_PIXELS:
            return None
        check_pixels(image.shape[1], image.shape[0], self.max_pixels)
        return image
