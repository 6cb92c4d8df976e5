"""Decode JPEG files at 1/8, 1/4, 1/2 or full size: the smallest that has enough pixels."""

from __future__ import annotations

import io
import math
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
from jaxtyping import UInt8

EXIF_ORIENTATION = 0x0112

# In eighths of the full size. libjpeg-turbo supports all eighths, but is slower at the others.
_EIGHTHS = (1, 2, 4, 8)


class Box(NamedTuple):
    """A rectangle in an image, pixels."""

    top: float
    left: float
    height: float
    width: float


class Part(NamedTuple):
    """Decoded pixels in stored orientation, and the requested rectangle in them."""

    pixels: UInt8[np.ndarray, "height width channels"]
    box: Box
    size: tuple[int, int]
    """Height and width to resize the rectangle to, in stored orientation."""


def orient(
    image: UInt8[np.ndarray, "h w channels"], orientation: int
) -> UInt8[np.ndarray, "height width channels"]:
    """An upright view of a stored image, by its EXIF orientation 1..8 (EXIF 2.32, 4.6.4)."""
    if orientation in (5, 6, 7, 8):
        image = image.transpose(1, 0, 2)
    if orientation in (2, 3, 6, 7):
        image = image[:, ::-1]
    if orientation in (3, 4, 7, 8):
        image = image[::-1]
    return image


@dataclass(frozen=True)
class JpegImage:
    """A JPEG file whose header has been read and whose pixels are not decoded yet.

    Coordinates are those of the upright image, turned by its EXIF orientation.
    """

    content: bytes
    """Content of the file."""
    stored_shape: tuple[int, int]
    """Height and width as stored, pixels."""
    orientation: int = 1
    """EXIF orientation, 1..8."""

    @classmethod
    def open(cls, content: bytes) -> JpegImage | None:
        """Read the header of a grey or colour JPEG file; None for CMYK and all other files."""
        import simplejpeg

        if not content.startswith(b"\xff\xd8\xff"):
            return None
        try:
            height, width, colours, _ = simplejpeg.decode_jpeg_header(content)
        except ValueError:
            return None
        if colours not in ("YCbCr", "Gray"):
            return None
        return cls(content, (height, width), _orientation(content))

    @property
    def shape(self) -> tuple[int, int, int]:
        """Height and width of the upright image, and 3."""
        height, width = self.stored_shape
        return (width, height, 3) if self.orientation >= 5 else (height, width, 3)

    def part(
        self, box: Box, height: int, width: int, colours: Literal["RGB", "RGBX"] = "RGB"
    ) -> Part:
        """Decode at the smallest of 1/8, 1/4, 1/2 and 1 that leaves enough pixels in a rectangle.

        Args:
          box: the rectangle in the upright image.
          height: height needed for the rectangle, pixels; if it has less, the scale is 1.
          width: width needed for the rectangle, pixels.
          colours: channels of the result; the values of channel X are undefined.

        Raises:
          ValueError: if the file is damaged.
        """
        import simplejpeg

        if self.orientation >= 5:
            height, width = width, height
        box = self._stored(box)
        enough = (
            n for n in _EIGHTHS if box.height * n >= 8 * height and box.width * n >= 8 * width
        )
        scale = next(enough, 8) / 8
        pixels = simplejpeg.decode_jpeg(
            self.content,
            colorspace=colours,
            # simplejpeg chooses the scale by the size of the result, which libjpeg rounds up.
            min_height=math.ceil(self.stored_shape[0] * scale),
            min_width=math.ceil(self.stored_shape[1] * scale),
        )
        return Part(pixels, Box(*(edge * scale for edge in box)), (height, width))

    def _stored(self, box: Box) -> Box:
        """Convert a rectangle of the upright image to coordinates of the stored image."""
        top, left, height, width = box
        if self.orientation in (3, 4, 7, 8):
            top = self.shape[0] - top - height
        if self.orientation in (2, 3, 6, 7):
            left = self.shape[1] - left - width
        if self.orientation >= 5:
            return Box(left, top, width, height)
        return Box(top, left, height, width)


def _orientation(content: bytes) -> int:
    # Few files have an orientation, and parsing EXIF with Pillow is the slowest step here.
    header = content[: _header_size(content)]
    if b"Exif" not in header and b"Orientation" not in header:
        return 1
    from PIL import Image

    with Image.open(io.BytesIO(content), formats=("JPEG",)) as image:
        orientation = image.getexif().get(EXIF_ORIENTATION, 1)
    return orientation if orientation in range(1, 9) else 1


def _header_size(content: bytes) -> int:
    """Number of bytes before the first scan (ITU-T T.81, B.1.1); the file size without markers."""
    position = 2
    while content[position : position + 1] == b"\xff":
        if content[position + 1 : position + 2] == b"\xda":
            return position
        position += 2 + int.from_bytes(content[position + 2 : position + 4])
    return len(content)
