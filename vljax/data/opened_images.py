"""Image files opened by Pillow, with its limits and its clipping set right.

Exported programs contain a copy of this file, so it imports nothing from vljax. Pillow is imported
only when an image is opened.
"""

from __future__ import annotations

import io
import threading
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from PIL import Image

# Not every format that Pillow knows: some of its readers run other programs.
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF")

_opening = threading.Lock()


def open_image(content: bytes) -> Image.Image:
    """Open an image file with Pillow; this reads its header only.

    Pillow's own limit of pixels does not apply, so that `max_pixels` is the only one: compare with
    it before the pixels are decoded.

    >>> buffer = io.BytesIO()
    >>> from PIL import Image
    >>> Image.new("L", (4, 3)).save(buffer, "PNG")
    >>> open_image(buffer.getvalue()).size
    (4, 3)

    Raises:
      Exception: of many types, if it is not an image of `FORMATS`.
    """
    from PIL import Image

    with _opening:  # the limit is a global of Pillow's
        limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
        try:
            return Image.open(io.BytesIO(content), formats=FORMATS)
        finally:
            Image.MAX_IMAGE_PIXELS = limit


def reduce_transparency(image: Image.Image) -> None:
    """Reduces the transparent colour of a PNG with 16 bits a channel, as Pillow does its pixels."""
    colour = image.info.get("transparency")
    tiles = getattr(image, "tile", None)
    if isinstance(colour, tuple) and tiles and "16B" in str(tiles[0][3]):
        image.info["transparency"] = tuple(value >> 8 for value in colour)


# What may be white in greys of 32 bits: the smallest that no pixel exceeds.
_WHITES = {"I": (255, 65535, 2**31 - 1), "F": (1, 255, 65535)}


def has_wide_greys(image: Image.Image) -> bool:
    """Whether pixels are greys of 16 or 32 bits, which `scaled_greys` reduces."""
    return image.mode in _WHITES or image.mode.startswith("I;16")


def scaled_greys(image: Image.Image) -> np.ndarray:
    """Greys of 16 and 32 bits as uint8[height, width, 1], or 2 with alpha if one is transparent.

    Pillow would clip them at 255 instead of scaling them.

    Raises:
      ValueError: if no white is known for their range.
    """
    values = np.asarray(image)
    white = 65535
    if image.mode in _WHITES:
        low, high = float(values.min()), float(values.max())
        whites = [white for white in _WHITES[image.mode] if low >= 0 and high <= white]
        if not whites:
            raise ValueError(
                f"greys of 32 bits from {low:g} to {high:g}, a range with no known white"
            )
        white = whites[0]
        if white == 255:
            return np.asarray(image.convert("L"))[..., None]
    exact = np.dtype(np.float64 if white > 65535 else np.float32)
    grey = np.multiply(values, 255 / white, dtype=exact).round().astype(np.uint8)
    transparent = image.info.get("transparency")
    if not isinstance(transparent, int):
        return grey[..., None]
    return np.stack([grey, np.where(values == transparent, 0, 255).astype(np.uint8)], axis=-1)
