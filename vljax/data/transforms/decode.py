"""Image files to pixels."""

from __future__ import annotations

import io
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import UInt8

from vljax.data.images.decoded_images import LARGEST_PIXELS, DecodedImages
from vljax.data.images.errors import image_errors
from vljax.data.images.jpeg import EXIF_ORIENTATION, JpegImage, orient
from vljax.data.records import ExampleError
from vljax.data.transforms.base import Colour, Example, Transform, check_colour

if TYPE_CHECKING:
    from PIL import Image


# Not every format Pillow knows: some of its readers run other programs.
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF")


@dataclass(frozen=True)
class Decode(Transform, name="decode"):
    """Decodes the image, turns it as its EXIF orientation says, and puts it on a background."""

    background: Colour = (255, 255, 255)
    """Red, green, blue behind transparent pixels, 0..255."""
    random_background: bool = False
    """Draw the background anew each time instead."""
    max_pixels: int = 64_000_000
    """Images with more are refused before they are decoded."""
    scaled: bool = False
    """Decode JPEGs no finer than the next transform needs (1/2, 1/4 or 1/8 by libjpeg's scaled
    inverse DCT): faster, and nearly the same pixels. That transform must be one that fixes the
    size. Files of at most 256 x 256 pixels are decoded in full, and kept."""

    provides = "image"

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
        if image is None or image.shape[0] * image.shape[1] <= LARGEST_PIXELS:
            return None
        _check_pixels(image.shape[1], image.shape[0], self.max_pixels)
        return image


def decode_image(
    content: bytes, background: Colour, max_pixels: int
) -> UInt8[np.ndarray, "height width 3"]:
    """The pixels of an image file.

    Raises:
      ExampleError: if the content is not an image, is damaged, or has more than `max_pixels`.
    """
    key = content, max_pixels
    pixels = _decoded.find(key)
    if pixels is None:
        pixels = decode_pixels(content, max_pixels)
        _decoded.keep(key, pixels)
    return pixels if pixels.shape[2] == 3 else _on_background(pixels, background)


# Of this process: the evaluators share theirs, and threads that prepare batches.
_decoded = DecodedImages()


def decode_pixels(content: bytes, max_pixels: int) -> UInt8[np.ndarray, "height width channels"]:
    """Red, green and blue, and alpha if there is any, turned as EXIF says.

    Raises:
      ExampleError: as `decode_image` does.
    """
    from PIL import Image, ImageOps, UnidentifiedImageError

    try:
        # Reads the header only.
        with image_errors(), Image.open(io.BytesIO(content), formats=FORMATS) as image:
            _check_pixels(image.width, image.height, max_pixels)
            if image.format == "JPEG" and image.mode in ("RGB", "L"):
                return _decode_jpeg(content, image.getexif().get(EXIF_ORIENTATION, 1))
            return _to_rgb(ImageOps.exif_transpose(image))
    except ExampleError as error:
        if isinstance(error.__cause__, UnidentifiedImageError):
            formats = ", ".join(FORMATS)
            raise ExampleError(f"image is none of {formats}", kind="not_an_image") from error
        raise


def _check_pixels(width: int, height: int, limit: int) -> None:
    if width * height > limit:
        message = f"image has {width} x {height} pixels, more than {limit:,}"
        raise ExampleError(message, kind="too_many_pixels")


def _decode_jpeg(content: bytes, orientation: int) -> np.ndarray:
    """The same pixels as Pillow's (both use libjpeg-turbo), in two thirds of the time."""
    import simplejpeg

    image = simplejpeg.decode_jpeg(content, colorspace="RGB")
    return np.ascontiguousarray(orient(image, orientation))


def _to_rgb(image: Image.Image) -> np.ndarray:
    if image.mode.startswith("I;16"):
        # Pillow clips 16-bit greys at 255 instead of scaling them.
        grey = (np.asarray(image).astype(np.float32) * (255 / 65535)).round().astype(np.uint8)
        return np.repeat(grey[..., None], 3, axis=-1)
    if not image.has_transparency_data:
        return np.asarray(image.convert("RGB"))
    return np.asarray(image.convert("RGBA"))


def _on_background(
    pixels: UInt8[np.ndarray, "height width 4"], background: Colour
) -> UInt8[np.ndarray, "height width 3"]:
    from PIL import Image

    image = Image.fromarray(pixels)
    canvas = Image.new("RGBA", image.size, (*background, 255))
    return np.asarray(Image.alpha_composite(canvas, image).convert("RGB"))
