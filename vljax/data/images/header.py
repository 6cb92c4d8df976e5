"""What an image file says of itself before its pixels."""

from __future__ import annotations

import io
import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING

from vljax.data.images.errors import image_errors
from vljax.data.images.jpeg import EXIF_ORIENTATION
from vljax.data.records import ExampleError
from vljax.data.transforms.decode import FORMATS

if TYPE_CHECKING:
    from PIL import Image

MODES = ("RGB", "RGBA", "L", "LA", "P", "PA", "1", "CMYK", "YCbCr", "I;16", "I", "F", "other")
"""Pillow's names of what a pixel is; "other" stands for the rest of them."""

GREY_MODES = ("L", "LA", "1", "I;16", "I", "F")


@dataclass(frozen=True)
class ImageHeader:
    """The header of an image file."""

    format: str
    """One of `FORMATS`."""
    mode: str
    """One of `MODES`."""
    has_alpha: bool
    """Whether pixels can be transparent."""
    orientation: int
    """How the stored image is to be turned, 1..8 as in EXIF; 1 is not at all."""
    width: int
    """Of the image as it is to be seen, pixels."""
    height: int
    """The same down."""


def read_header(content: bytes) -> ImageHeader:
    """Reads the header of an image file.

    Raises:
      ExampleError: if it is none of `FORMATS`, or damaged.
    """
    from PIL import Image, UnidentifiedImageError

    try:
        with warnings.catch_warnings():
            # Its limit is not ours: who decodes counts the pixels.
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with image_errors(), Image.open(io.BytesIO(content), formats=FORMATS) as image:
                return _header(image)
    except ExampleError as error:
        if isinstance(error.__cause__, UnidentifiedImageError):
            formats = ", ".join(FORMATS)
            raise ExampleError(f"image is none of {formats}", kind="not_an_image") from error
        raise


def _header(image: Image.Image) -> ImageHeader:
    orientation = image.getexif().get(EXIF_ORIENTATION, 1)
    if orientation not in range(1, 9):
        orientation = 1
    width, height = image.size if orientation < 5 else image.size[::-1]
    mode = "I;16" if image.mode.startswith("I;16") else image.mode
    return ImageHeader(
        format={"MPO": "JPEG"}.get(image.format or "", image.format or ""),
        mode=mode if mode in MODES else "other",
        has_alpha=image.has_transparency_data,
        orientation=orientation,
        width=width,
        height=height,
    )
