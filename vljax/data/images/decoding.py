"""Decode image files, read their headers, and turn decoder errors into `ExampleError`."""

from __future__ import annotations

import contextlib
import io
import re
import threading
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import UInt8

from vljax.data.images.jpeg import EXIF_ORIENTATION, orient
from vljax.data.records import ExampleError, RejectionKind

if TYPE_CHECKING:
    from PIL import Image

# Not every format that Pillow knows: some of its readers run other programs.
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF")

MODES = ("RGB", "RGBA", "L", "LA", "P", "PA", "1", "CMYK", "YCbCr", "I;16", "I", "F", "other")
"""Pillow's pixel modes; "other" stands for all that are not listed."""

GREY_MODES = ("L", "LA", "1", "I;16", "I", "F")

Colour = tuple[int, int, int]

# Larger images are not cached. They are typical of web-scale sets, which would fill the cache
# before an image is read again.
LARGEST_CACHED_PIXELS = 2**16

# Error messages of Pillow and libjpeg-turbo for a file that ends too early.
_TRUNCATED = re.compile(r"truncated|premature end|unexpected end", re.IGNORECASE)


def decode_image(
    content: bytes, background: Colour, max_pixels: int
) -> UInt8[np.ndarray, "height width 3"]:
    """Decode an image file to RGB pixels; the pixels of small images are cached.

    Args:
      content: the image file.
      background: red, green, blue behind transparent pixels, 0..255.
      max_pixels: larger images are refused before they are decoded.

    Raises:
      ExampleError: if the content is not an image, is damaged, or has more than `max_pixels`.
    """
    key = content, max_pixels
    pixels = _cache.get(key)
    if pixels is None:
        pixels = decode_pixels(content, max_pixels)
        _cache.put(key, pixels)
    return pixels if pixels.shape[2] == 3 else _on_background(pixels, background)


def decode_pixels(content: bytes, max_pixels: int) -> UInt8[np.ndarray, "height width channels"]:
    """Decode an image file to RGB, or RGBA if it has transparency, turned by its EXIF orientation.

    Raises:
      ExampleError: as `decode_image` does.
    """
    from PIL import Image, ImageOps

    # Opening reads the header only.
    with image_errors(), Image.open(io.BytesIO(content), formats=FORMATS) as image:
        check_pixels(image.width, image.height, max_pixels)
        if image.format == "JPEG" and image.mode in ("RGB", "L"):
            return _decode_jpeg(content, image.getexif().get(EXIF_ORIENTATION, 1))
        return _to_rgb(ImageOps.exif_transpose(image))


def check_pixels(width: int, height: int, limit: int) -> None:
    """Raise ExampleError if an image has more than `limit` pixels."""
    if width * height > limit:
        message = f"image has {width} x {height} pixels, more than {limit:,}"
        raise ExampleError(message, kind="too_many_pixels")


def _decode_jpeg(content: bytes, orientation: int) -> np.ndarray:
    """Decode to the same pixels as Pillow (both use libjpeg-turbo), in two thirds of the time."""
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


@contextlib.contextmanager
def image_errors() -> Iterator[None]:
    """Turn any exception of an image decoder into an ExampleError."""
    try:
        yield
    except ExampleError:
        raise
    # Decoders raise OSError, SyntaxError, ValueError, struct.error and more on damaged files.
    except Exception as error:
        # Errors are told apart by name, since Pillow is imported only when an image is decoded.
        name = type(error).__name__
        if name == "UnidentifiedImageError":
            formats = ", ".join(FORMATS)
            raise ExampleError(f"image is none of {formats}", kind="not_an_image") from error
        message = " ".join(str(error).split())
        kind: RejectionKind = "truncated" if _TRUNCATED.search(message) else "damaged"
        if name == "DecompressionBombError":
            kind = "too_many_pixels"
        raise ExampleError(f"image cannot be decoded ({message[:200]})", kind=kind) from error


CacheKey = tuple[bytes, int]


class DecodedImageCache:
    """Pixels of small image files, kept up to a limit of bytes; safe to use from threads.

    Nothing is ever evicted. Each epoch reads a data set in another order, so if the data set does
    not fit, an LRU cache would evict most entries before they are read again.

    Args:
      limit: bytes of all files and pixels together.
    """

    def __init__(self, limit: int = 2**28):
        self._left = limit
        self._pixels: dict[CacheKey, np.ndarray] = {}
        self._lock = threading.Lock()

    def get(self, key: CacheKey) -> UInt8[np.ndarray, "height width channels"] | None:
        """The pixels of a file, read-only; None if they are not in the cache."""
        return self._pixels.get(key)

    def put(self, key: CacheKey, pixels: UInt8[np.ndarray, "height width channels"]) -> None:
        """Store the pixels of a small file while there is room, and make them read-only."""
        size = len(key[0]) + pixels.nbytes
        if pixels.shape[0] * pixels.shape[1] > LARGEST_CACHED_PIXELS:
            return
        with self._lock:
            if size > self._left or key in self._pixels:
                return
            self._left -= size
            pixels.setflags(write=False)
            self._pixels[key] = pixels


# One cache per process: the threads that prepare batches share it with the evaluators.
_cache = DecodedImageCache()


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
    """EXIF orientation, 1..8; 1 means that the image is stored upright."""
    width: int
    """Width of the upright image, pixels."""
    height: int
    """Height of the upright image, pixels."""


def read_header(content: bytes) -> ImageHeader:
    """Read the header of an image file without decoding its pixels.

    Raises:
      ExampleError: if its format is not one of `FORMATS`, or it is damaged.
    """
    from PIL import Image

    with warnings.catch_warnings():
        # Pillow warns above a limit of its own; code that decodes the image checks `max_pixels`.
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        with image_errors(), Image.open(io.BytesIO(content), formats=FORMATS) as image:
            return _header(image)


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
