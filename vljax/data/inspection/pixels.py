"""Images decoded no finer than they are needed."""

from __future__ import annotations

import cv2
import numpy as np
from jaxtyping import UInt8

from vljax.data.image_errors import image_errors
from vljax.data.image_header import ImageHeader
from vljax.data.jpeg import Box, JpegImage, orient
from vljax.data.transform_decode import decode_image

WHITE = (255, 255, 255)


def small_pixels(
    content: bytes, header: ImageHeader, side: int, max_pixels: int
) -> UInt8[np.ndarray, "height width 3"]:
    """The image as it is to be seen, on white, at any size of at least `side` pixels each way.

    An image that has fewer pixels comes as it is.

    Raises:
      ExampleError: if it cannot be decoded, or has more than `max_pixels`.
    """
    with image_errors():
        image = JpegImage.open(content) if header.format == "JPEG" else None
        if image is not None and image.shape[0] * image.shape[1] <= max_pixels:
            height, width, _ = image.shape
            part = image.part(Box(0, 0, height, width), side, side)
            return np.ascontiguousarray(orient(part.pixels, image.orientation))
    return decode_image(content, WHITE, max_pixels)


def thumbnail(
    content: bytes, header: ImageHeader, longest: int, max_pixels: int
) -> UInt8[np.ndarray, "height width 3"]:
    """The whole image on white, at most `longest` pixels each way, never enlarged.

    Raises:
      ExampleError: as `small_pixels` does.
    """
    scale = min(1.0, longest / max(header.width, header.height))
    width = max(1, round(header.width * scale))
    height = max(1, round(header.height * scale))
    pixels = small_pixels(content, header, max(width, height), max_pixels)
    if pixels.shape[:2] == (height, width):
        return pixels
    return cv2.resize(pixels, (width, height), interpolation=cv2.INTER_AREA)
