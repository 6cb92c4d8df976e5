"""From image files to pixels: decode, rotate upright, fill transparency, resize."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from PIL import Image, ImageOps

from vljax.data.opened_images import (
    FORMATS,
    has_wide_greys,
    open_image,
    reduce_transparency,
    scaled_greys,
)

_FILTERS = {"bicubic": Image.Resampling.BICUBIC, "bilinear": Image.Resampling.BILINEAR}


class Images:
    """The image preprocessing that `preprocess.json` describes."""

    def __init__(self, content: Mapping[str, Any]) -> None:
        known = [each for each in content["transforms"] if each["type"] in _KNOWN]
        self._decode, *self._others = known

    def __call__(self, file: bytes) -> np.ndarray:
        """The pixels of an image file, uint8[size, size, 3].

        Raises:
          ValueError: if the file is not an image, or has too many pixels.
        """
        image = _decode(file, **_fields(self._decode))
        for each in self._others:
            image = _TRANSFORMS[each["type"]](image, **_fields(each))
        return image


def _fields(transform: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in transform.items() if name != "type"}


def _decode(file: bytes, background: list[int], max_pixels: int, **_: Any) -> np.ndarray:
    try:
        with open_image(file) as image:
            if image.width * image.height > max_pixels:
                raise ValueError(f"an image of more than {max_pixels:,} pixels")
            reduce_transparency(image)
            upright = ImageOps.exif_transpose(image)
            upright.load()
    except ValueError:
        raise
    # Decoders raise OSError, SyntaxError, struct.error and more on damaged files.
    except Exception as error:
        raise ValueError(f"damaged, or not an image of {', '.join(FORMATS)} ({error})") from error
    if has_wide_greys(upright):
        greys = scaled_greys(upright)
        bands = [Image.fromarray(np.ascontiguousarray(band)) for band in np.moveaxis(greys, -1, 0)]
        upright = Image.merge("LA"[: len(bands)], bands)
    if not upright.has_transparency_data:
        return np.asarray(upright.convert("RGB"))
    red, green, blue = background
    canvas = Image.new("RGBA", upright.size, (red, green, blue, 255))
    return np.asarray(Image.alpha_composite(canvas, upright.convert("RGBA")).convert("RGB"))


def _resize(
    image: np.ndarray,
    size: int,
    mode: str,
    interpolation: str,
    antialias: bool,
    background: list[int],
    centre: str,
) -> np.ndarray:
    height, width = _shape(image.shape[0], image.shape[1], size, mode)
    image = _resample(image, height, width, interpolation, antialias)
    if mode == "shortest":
        halve = round if centre == "round" else math.floor
        top, left = halve((height - size) / 2), halve((width - size) / 2)
        return image[top : top + size, left : left + size]
    if mode == "pad":
        top, left = (size - height) // 2, (size - width) // 2
        canvas = np.full((size, size, 3), background, np.uint8)
        canvas[top : top + height, left : left + width] = image
        return canvas
    return image


def _centre_crop(image: np.ndarray, size: int) -> np.ndarray:
    height, width = image.shape[:2]
    if min(height, width) < size:
        raise ValueError(f"{size} pixels cannot be cut out of {width} x {height}")
    top, left = (height - size) // 2, (width - size) // 2
    return image[top : top + size, left : left + size]


_TRANSFORMS: dict[str, Callable[..., np.ndarray]] = {
    "resize": _resize,
    "centre_crop": _centre_crop,
}
_KNOWN = ("decode", *_TRANSFORMS)


def _shape(height: int, width: int, size: int, mode: str) -> tuple[int, int]:
    if mode == "squash":
        return size, size
    if mode == "shortest":
        shortest = min(height, width)
        return int(size * height / shortest), int(size * width / shortest)
    longest = max(height, width)
    return max(1, round(size * height / longest)), max(1, round(size * width / longest))


def _resample(
    image: np.ndarray, height: int, width: int, interpolation: str, antialias: bool
) -> np.ndarray:
    if image.shape[:2] == (height, width):
        return image
    if antialias and interpolation in _FILTERS:
        return np.asarray(Image.fromarray(image).resize((width, height), _FILTERS[interpolation]))
    import cv2

    if not antialias:
        mode = cv2.INTER_CUBIC if interpolation == "bicubic" else cv2.INTER_LINEAR
        return np.asarray(cv2.resize(image, (width, height), interpolation=mode))
    # "area": bilinear onto a grid about as fine as the image, then an average of its cells.
    shrinks = math.sqrt(image.shape[0] * image.shape[1] / (height * width))
    cells = 2 ** max(0, round(math.log2(shrinks)))
    mode = cv2.INTER_CUBIC if shrinks < 1 else cv2.INTER_LINEAR
    fine = cv2.resize(image, (width * cells, height * cells), interpolation=mode)
    if cells > 1:
        fine = cv2.resize(fine, (width, height), interpolation=cv2.INTER_AREA)
    return np.asarray(fine)
