"""Encoded images to arrays: decoding, JPEG, and resampling."""

from __future__ import annotations

import contextlib
import io
import math
import re
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np
from jaxtyping import UInt8

from vljax.data.opened_images import (
    FORMATS,
    has_wide_greys,
    open_image,
    reduce_transparency,
    scaled_greys,
)
from vljax.data.records import ExampleError, RejectionKind
from vljax.files import LFS_REMEDY, is_lfs_pointer

if TYPE_CHECKING:
    from PIL import Image

MODES = ("RGB", "RGBA", "L", "LA", "P", "PA", "1", "CMYK", "YCbCr", "I;16", "I", "F", "other")
"""Pillow's pixel modes; "other" stands for all that are not listed."""

GREY_MODES = ("L", "LA", "1", "I;16", "I", "F")

MAX_PIXELS = 64_000_000
"""Default of `Decode.max_pixels`: larger images are refused before they are decoded."""

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
    from PIL import ImageOps

    # Opening reads the header only.
    with image_errors(content), open_image(content) as image:
        check_pixels(image.width, image.height, max_pixels)
        if image.format == "JPEG" and image.mode in ("RGB", "L"):
            # simplejpeg refuses files about which libjpeg only warns; Pillow decodes them.
            with contextlib.suppress(ValueError):
                return _decode_jpeg(content, image.getexif().get(EXIF_ORIENTATION, 1))
        reduce_transparency(image)
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
    if has_wide_greys(image):
        return _greys_to_rgb(image)
    if not image.has_transparency_data:
        return np.asarray(image.convert("RGB"))
    return np.asarray(image.convert("RGBA"))


def _greys_to_rgb(image: Image.Image) -> np.ndarray:
    try:
        greys = scaled_greys(image)
    except ValueError as error:
        raise ExampleError(f"image has {error}", kind="damaged") from error
    return np.concatenate([np.repeat(greys[..., :1], 3, axis=-1), greys[..., 1:]], axis=-1)


def _on_background(
    pixels: UInt8[np.ndarray, "height width 4"], background: Colour
) -> UInt8[np.ndarray, "height width 3"]:
    from PIL import Image

    image = Image.fromarray(pixels)
    canvas = Image.new("RGBA", image.size, (*background, 255))
    return np.asarray(Image.alpha_composite(canvas, image).convert("RGB"))


@contextlib.contextmanager
def image_errors(content: bytes = b"") -> Iterator[None]:
    """Turn any exception of an image decoder into an ExampleError.

    Args:
      content: the image file, to say what it is if it is not an image.
    """
    try:
        yield
    except ExampleError:
        raise
    # Decoders raise OSError, SyntaxError, ValueError, struct.error and more on damaged files.
    except Exception as error:
        # Errors are told apart by name, since Pillow is imported only when an image is decoded.
        name = type(error).__name__
        if name == "UnidentifiedImageError" and is_lfs_pointer(content):
            raise ExampleError(f"image: {LFS_REMEDY}", kind="not_an_image") from error
        if name == "UnidentifiedImageError":
            formats = ", ".join(FORMATS)
            raise ExampleError(f"image is none of {formats}", kind="not_an_image") from error
        message = " ".join(str(error).split())
        kind: RejectionKind = "truncated" if _TRUNCATED.search(message) else "damaged"
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
    with image_errors(content), open_image(content) as image:
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
          OSError, ValueError: if the file is damaged.
        """
        import simplejpeg

        if self.orientation >= 5:
            height, width = width, height
        box = self._stored(box)
        enough = (
            n for n in _EIGHTHS if box.height * n >= 8 * height and box.width * n >= 8 * width
        )
        scale = next(enough, 8) / 8
        try:
            pixels = simplejpeg.decode_jpeg(
                self.content,
                colorspace=colours,
                # simplejpeg chooses the scale by the size of the result, which libjpeg rounds up.
                min_height=math.ceil(self.stored_shape[0] * scale),
                min_width=math.ceil(self.stored_shape[1] * scale),
            )
        except ValueError:  # as in `decode_pixels`
            with open_image(self.content) as image:
                pixels, scale = np.asarray(image.convert(colours)), 1.0
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


Interpolation = Literal["bicubic", "bilinear", "area"]


def resample(
    image: UInt8[np.ndarray, "h w 3"],
    height: int,
    width: int,
    interpolation: Interpolation = "bicubic",
    *,
    antialias: bool = True,
) -> UInt8[np.ndarray, "{height} {width} 3"]:
    """Resize an image; pixel centres are at half-integer coordinates.

    >>> resample(np.full((40, 60, 3), 7, np.uint8), 8, 12)[0, 0].tolist()
    [7, 7, 7]

    Args:
      image: an image of any size.
      height: height of the result, pixels.
      width: width of the result, pixels.
      interpolation: "bicubic" and "bilinear" are Pillow's. "area" approximates antialiased bicubic
        and is several times as fast (`benchmarks/data.py`). It resizes bilinearly to 1, 2, 4, ...
        times the size of the result, whichever is closest to the image, and takes the mean of each
        cell of pixels. If the image grows, "area" is bicubic.
      antialias: whether the filter widens when the image shrinks; "area" always antialiases.
        Without antialiasing, the filter is OpenCV's.
    """
    if image.shape[:2] == (height, width):
        return image
    if antialias:
        whole = Box(0, 0, image.shape[0], image.shape[1])
        return _antialiased(image, whole, height, width, interpolation)
    import cv2

    modes = {"bicubic": cv2.INTER_CUBIC, "bilinear": cv2.INTER_LINEAR}
    return cv2.resize(image, (width, height), interpolation=modes[interpolation])


def cut(
    image: UInt8[np.ndarray, "h w 3"] | JpegImage,
    box: Box,
    height: int,
    width: int,
    interpolation: Interpolation = "bicubic",
) -> UInt8[np.ndarray, "{height} {width} 3"]:
    """Resize a rectangle of an image, antialiased; pixels outside it have no influence.

    Args:
      image: pixels, or a JPEG file, which is decoded at the smallest sufficient size.
      box: the rectangle; in whole pixels if `image` is pixels.
      height: height of the result, pixels.
      width: width of the result, pixels.
      interpolation: see `resample`.

    Raises:
      ExampleError: if the file is damaged.
    """
    if not isinstance(image, JpegImage):
        top, left, rows, columns = (int(edge) for edge in box)
        return resample(
            image[top : top + rows, left : left + columns], height, width, interpolation
        )
    with image_errors():
        # OpenCV resizes four channels faster than three, and libjpeg adds the fourth at no cost.
        part = image.part(box, height, width, "RGBX" if interpolation == "area" else "RGB")
    pixels = _antialiased(part.pixels, part.box, *part.size, interpolation)
    if interpolation == "area":
        import cv2

        pixels = cv2.cvtColor(pixels, cv2.COLOR_RGBA2RGB)
    return np.ascontiguousarray(orient(pixels, image.orientation))


def _antialiased(
    image: np.ndarray, box: Box, height: int, width: int, interpolation: Interpolation
) -> np.ndarray:
    # Rounding may put an edge of the rectangle just beyond the image.
    top, left = max(0, math.floor(box.top)), max(0, math.floor(box.left))
    image = image[top : math.ceil(box.top + box.height), left : math.ceil(box.left + box.width)]
    y, x = max(0, box.top - top), max(0, box.left - left)
    box = Box(y, x, min(box.height, image.shape[0] - y), min(box.width, image.shape[1] - x))
    if interpolation == "area":
        return _area(image, box, height, width)
    from PIL import Image

    filters = {"bicubic": Image.Resampling.BICUBIC, "bilinear": Image.Resampling.BILINEAR}
    bottom, right = min(y + box.height, image.shape[0]), min(x + box.width, image.shape[1])
    corners = (x, y, right, bottom)
    resized = Image.fromarray(image).resize((width, height), filters[interpolation], corners)
    return np.asarray(resized)


def _area(image: np.ndarray, box: Box, height: int, width: int) -> np.ndarray:
    import cv2

    shrinks = math.sqrt(box.height * box.width / (height * width))
    cells = 2 ** max(0, round(math.log2(shrinks)))
    mode = cv2.INTER_CUBIC if shrinks < 1 else cv2.INTER_LINEAR
    size = (width * cells, height * cells)
    if (0, 0, *image.shape[:2]) == box:
        fine = cv2.resize(image, size, interpolation=mode)
    else:
        y, x = box.height / size[1], box.width / size[0]
        # Maps pixel centres of the result to those of the image.
        to_image = np.array([[x, 0, box.left + x / 2 - 0.5], [0, y, box.top + y / 2 - 0.5]])
        flags = mode | cv2.WARP_INVERSE_MAP
        fine = cv2.warpAffine(image, to_image, size, flags=flags, borderMode=cv2.BORDER_REPLICATE)
    if cells == 1:
        return fine
    return cv2.resize(fine, (width, height), interpolation=cv2.INTER_AREA)
