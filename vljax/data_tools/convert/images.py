"""Images in a conversion: copied unchanged unless they must be smaller or in another format."""

from __future__ import annotations

import io
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from vljax.data.images import decode_pixels, image_errors, read_header
from vljax.data.opened_images import open_image
from vljax.data.records import ExampleError

Encoding = Literal["jpg", "png", "webp"]

_ENDINGS = {
    "JPEG": "jpg",
    "PNG": "png",
    "WEBP": "webp",
    "GIF": "gif",
    "BMP": "bmp",
    "TIFF": "tif",
}
_WRITTEN = {"jpg": "JPEG", "png": "PNG", "webp": "WEBP"}
_DEFAULT_QUALITY = 95
MAX_CONVERTED_PIXELS = 512_000_000
"""Images to decode may be larger than in training, since `max_side` makes them small."""


@dataclass(frozen=True)
class ImageOptions:
    """How images are written."""

    max_side: int | None = None
    """Larger images are scaled down so that the longer side has this many pixels."""
    encode: Encoding | None = None
    """Format of all images; unset means the format of the source. An image that has this format and
    is small enough is copied unchanged."""
    quality: int | None = None
    """Quality of JPEG and WebP, 1..100. If set together with `encode`, every image is encoded
    again."""

    max_pixels: int = MAX_CONVERTED_PIXELS
    """Images that must be decoded and have more pixels are rejected."""

    def problems(self) -> Iterator[tuple[str, str]]:
        """Options with invalid values, each with a message."""
        if self.max_side is not None and self.max_side < 1:
            yield "--max-side", f"must be at least 1, got {self.max_side}"
        if self.quality is None:
            return
        if not 1 <= self.quality <= 100:
            yield "--quality", f"must be 1 to 100, got {self.quality}"
        if self.encode is None and self.max_side is None:
            yield "--quality", "is for images that are re-encoded; add --encode or --max-side"
        if self.encode == "png":
            yield "--quality", "is for jpg and webp; PNG files lose nothing"


@dataclass(frozen=True)
class ImageFile:
    """An encoded image."""

    content: bytes
    """The bytes of the file."""
    ending: str
    """Ending of the file name, without a dot."""
    width: int
    """Width in pixels, after applying the EXIF orientation."""
    height: int
    """Height in pixels, after applying the EXIF orientation."""


def convert_image(content: bytes, images: ImageOptions) -> ImageFile:
    """The image to write for an image of the source.

    Raises:
      ExampleError: if it is not an image, must be decoded but cannot be, or has transparent pixels
        that the format cannot hold.
    """
    picture = _unchanged(content)
    ending = images.encode or (picture.ending if picture.ending in _WRITTEN else "png")
    longest = max(picture.width, picture.height)
    too_large = images.max_side is not None and longest > images.max_side
    must_encode = images.encode is not None and (
        picture.ending != images.encode or images.quality is not None
    )
    if not too_large and not must_encode:
        return picture
    size = (picture.width, picture.height)
    if images.max_side is not None and too_large:
        scale = images.max_side / longest
        size = (max(1, round(size[0] * scale)), max(1, round(size[1] * scale)))
    return ImageFile(_encoded(content, size, ending, images), ending, *size)


def as_png(content: bytes) -> bytes:
    """A grey image re-encoded as a PNG file with the same pixels."""
    with image_errors(content), open_image(content) as image:
        return _saved(image, "png", {})


def _unchanged(content: bytes) -> ImageFile:
    """The image file unchanged; only its header is read."""
    header = read_header(content)
    return ImageFile(content, _ENDINGS[header.format], header.width, header.height)


def _encoded(content: bytes, size: tuple[int, int], ending: str, images: ImageOptions) -> bytes:
    """The image with EXIF orientation applied, in another size or format."""
    from PIL import Image

    pixels = decode_pixels(content, images.max_pixels)
    if pixels.shape[2] == 4:
        if (pixels[..., 3] == 255).all():
            pixels = np.ascontiguousarray(pixels[..., :3])
        elif ending == "jpg":
            raise ExampleError(
                "image has transparent pixels, which jpg cannot hold; encode png or webp",
                kind="transparent",
            )
    image = Image.fromarray(pixels)
    if image.size != size:
        image = image.resize(size, Image.Resampling.BICUBIC)
    options: dict[str, Any] = (
        {} if ending == "png" else {"quality": images.quality or _DEFAULT_QUALITY}
    )
    profile = _colour_profile(content)
    return _saved(image, ending, {**options, **({"icc_profile": profile} if profile else {})})


def _colour_profile(content: bytes) -> bytes | None:
    """The ICC profile of an RGB image; profiles of other modes do not fit the decoded pixels."""
    with image_errors(content), open_image(content) as image:
        return image.info.get("icc_profile") if image.mode in ("RGB", "RGBA") else None


def _saved(image: Any, ending: str, options: dict[str, Any]) -> bytes:
    buffer = io.BytesIO()
    try:
        image.save(buffer, _WRITTEN[ending], **options)
    except (OSError, ValueError) as error:  # such as too many pixels per side
        raise ExampleError(f"image cannot be written as {ending} ({error})") from error
    return buffer.getvalue()
