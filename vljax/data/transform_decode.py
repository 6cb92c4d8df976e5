"""Image files to pixels."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import UInt8

from vljax.data.decoded_images import DecodedImages
from vljax.data.source_base import ExampleError
from vljax.data.transform_base import Colour, Example, Transform, check_colour

if TYPE_CHECKING:
    from PIL import Image


# Not every format Pillow knows: some of its readers run other programs.
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF")


@dataclass(frozen=True)
class Decode(Transform, name="decode"):
    """Decodes the image, turns it as its EXIF orientation says, and puts it on a background.

    Attributes:
      background: red, green, blue behind transparent pixels, 0..255.
      random_background: draw the background anew each time instead.
      max_pixels: images with more are refused before they are decoded.
    """

    background: Colour = (255, 255, 255)
    random_background: bool = False
    max_pixels: int = 64_000_000

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
        image = decode_image(example["record"].image, background, self.max_pixels)
        return {**example, "image": image}


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
        pixels = _decode(content, max_pixels)
        _decoded.keep(key, pixels)
    return pixels if pixels.shape[2] == 3 else _on_background(pixels, background)


# Of this process: the evaluators share theirs, and threads that prepare batches.
_decoded = DecodedImages()


def _decode(content: bytes, max_pixels: int) -> UInt8[np.ndarray, "height width channels"]:
    """Red, green and blue, and alpha if any is transparent."""
    from PIL import Image, ImageOps, UnidentifiedImageError

    try:
        # Reads the header only.
        with Image.open(io.BytesIO(content), formats=FORMATS) as image:
            if image.width * image.height > max_pixels:
                raise ExampleError(
                    f"image has {image.width} x {image.height} pixels, more than {max_pixels:,}",
                    kind="too_many_pixels",
                )
            if image.format == "JPEG" and image.mode in ("RGB", "L"):
                pixels = _decode_jpeg(content, image.getexif().get(_ORIENTATION, 1))
            else:
                pixels = _to_rgb(ImageOps.exif_transpose(image))
    except ExampleError:
        raise
    except UnidentifiedImageError as error:
        formats = ", ".join(FORMATS)
        raise ExampleError(f"image is none of {formats}", kind="not_an_image") from error
    # Decoders raise OSError, SyntaxError, ValueError, struct.error and more on damaged files.
    except Exception as error:
        message = " ".join(str(error).split())
        kind = "truncated" if _TRUNCATED.search(message) else "damaged"
        raise ExampleError(f"image cannot be decoded ({message[:200]})", kind=kind) from error
    return pixels


_ORIENTATION = 0x0112
# What Pillow and libjpeg-turbo say of a file that ends too early.
_TRUNCATED = re.compile(r"truncated|premature end|unexpected end", re.IGNORECASE)


def _decode_jpeg(content: bytes, orientation: int) -> np.ndarray:
    """The same pixels as Pillow's (both use libjpeg-turbo), in two thirds of the time."""
    import simplejpeg

    image: np.ndarray = simplejpeg.decode_jpeg(content, colorspace="RGB")
    if orientation in (5, 6, 7, 8):
        image = image.transpose(1, 0, 2)
    if orientation in (2, 3, 6, 7):
        image = image[:, ::-1]
    if orientation in (3, 4, 7, 8):
        image = image[::-1]
    return np.ascontiguousarray(image)


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
