"""What becomes of images: they pass as they are, unless they are to be smaller or encoded anew."""

from __future__ import annotations

import io
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from vljax.data.images.decoding import FORMATS, decode_pixels, image_errors, read_header
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
_QUALITY = 95
_MOST_PIXELS = 64_000_000


@dataclass(frozen=True)
class Images:
    """How images are written."""

    max_side: int | None = None
    """Images that are longer than this are scaled down to it, pixels."""
    encode: Encoding | None = None
    """Format of all images; unset, that of the source. One that has it already and fits passes as
    it is."""
    quality: int | None = None
    """Of JPEG and WebP, 1..100; set with `encode`, all images are encoded anew with it."""

    def problems(self) -> Iterator[tuple[str, str]]:
        """Option and what is wrong with it."""
        if self.max_side is not None and self.max_side < 1:
            yield "--max-side", f"must be at least 1, got {self.max_side}"
        if self.quality is None:
            return
        if not 1 <= self.quality <= 100:
            yield "--quality", f"must be 1 to 100, got {self.quality}"
        if self.encode is None and self.max_side is None:
            yield "--quality", "is for images that are encoded anew; add --encode or --max-side"
        if self.encode == "png":
            yield "--quality", "is for jpg and webp; PNG files lose nothing"


@dataclass(frozen=True)
class Picture:
    """An image file."""

    content: bytes
    """The file."""
    ending: str
    """Of its name, without a dot."""
    width: int
    """As it is to be seen, pixels."""
    height: int
    """The same."""


def converted(content: bytes, images: Images) -> Picture:
    """An image as it is to be written.

    Raises:
      ExampleError: if it is none, cannot be decoded though it must be, or the format cannot hold
        its transparency.
    """
    picture = _as_it_is(content)
    ending = images.encode or (picture.ending if picture.ending in _WRITTEN else "png")
    longest = max(picture.width, picture.height)
    too_large = images.max_side is not None and longest > images.max_side
    otherwise = images.encode is not None and (
        picture.ending != images.encode or images.quality is not None
    )
    if not too_large and not otherwise:
        return picture
    size = (picture.width, picture.height)
    if images.max_side is not None and too_large:
        share = images.max_side / longest
        size = (max(1, round(size[0] * share)), max(1, round(size[1] * share)))
    return Picture(_encoded(content, size, ending, images.quality or _QUALITY), ending, *size)


def lossless(content: bytes) -> bytes:
    """A grey image of another format as a PNG file of the same pixels."""
    from PIL import Image

    with image_errors(), Image.open(io.BytesIO(content), formats=FORMATS) as image:
        return _saved(image, "png", {})


def _as_it_is(content: bytes) -> Picture:
    """Reads the header only."""
    header = read_header(content)
    return Picture(content, _ENDINGS[header.format], header.width, header.height)


def _encoded(content: bytes, size: tuple[int, int], ending: str, quality: int) -> bytes:
    """The image, turned as it is to be seen, in another size or format."""
    from PIL import Image

    pixels = decode_pixels(content, _MOST_PIXELS)
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
    options: dict[str, Any] = {} if ending == "png" else {"quality": quality}
    profile = _colour_profile(content)
    return _saved(image, ending, {**options, **({"icc_profile": profile} if profile else {})})


def _colour_profile(content: bytes) -> bytes | None:
    """The ICC profile of red, green and blue; others are of no use for decoded pixels."""
    from PIL import Image

    with image_errors(), Image.open(io.BytesIO(content), formats=FORMATS) as image:
        return image.info.get("icc_profile") if image.mode in ("RGB", "RGBA") else None


def _saved(image: Any, ending: str, options: dict[str, Any]) -> bytes:
    buffer = io.BytesIO()
    try:
        image.save(buffer, _WRITTEN[ending], **options)
    except (OSError, ValueError) as error:  # too many pixels a side, for one
        raise ExampleError(f"image cannot be written as {ending} ({error})") from error
    return buffer.getvalue()
