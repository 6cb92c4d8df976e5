"""Resize images, or rectangles of them."""

from __future__ import annotations

import math
from typing import Literal

import numpy as np
from jaxtyping import UInt8

from vljax.data.images.decoding import image_errors
from vljax.data.images.jpeg import Box, JpegImage, orient

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
