"""Check, shrink and encode the pictures of the built-in data set."""

import io
import struct
from pathlib import Path

from PIL import Image, UnidentifiedImageError

LONGEST_SIDE = 128
SHORTEST_SIDE = 8
MAX_PIXELS = 16_000_000
WEBP_QUALITY = 50
ALPHA_LEVELS = 8

_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_VISIBLE_ALPHA = 8
_LEAST_MEAN_ALPHA = 0.01


class RejectedError(Exception):
    """A picture breaks a selection rule; the message names the rule."""


def check_header(path: Path) -> None:
    """Check the size of a PNG file by its header.

    Args:
      path: the PNG file.

    Raises:
      RejectedError: the header is broken or states more than `MAX_PIXELS` pixels.
    """
    with path.open("rb") as file:
        header = file.read(24)
    if len(header) < 24 or not header.startswith(_PNG_SIGNATURE):
        raise RejectedError("broken PNG")
    # Reads the header by hand, so that a huge picture is neither decoded nor opened with Pillow.
    width, height = struct.unpack(">II", header[16:24])
    if width * height > MAX_PIXELS:
        raise RejectedError("more than 16 megapixels")


def shrink(path: Path) -> Image.Image:
    """Crop a PNG picture to its visible part and scale it down.

    Args:
      path: the PNG file.

    Returns:
      An RGBA picture whose longest side is at most `LONGEST_SIDE` pixels.

    Raises:
      RejectedError: the file cannot be decoded, or almost nothing is visible.
    """
    try:
        with Image.open(path) as file:
            picture = file.convert("RGBA")
    except (UnidentifiedImageError, OSError, SyntaxError) as error:
        raise RejectedError("broken PNG") from error
    picture = crop_and_scale(picture, LONGEST_SIDE)
    # WebP stores alpha without loss; fewer levels make the data a third smaller.
    step = 255 / (ALPHA_LEVELS - 1)
    picture.putalpha(picture.getchannel("A").point(lambda alpha: round(round(alpha / step) * step)))
    return picture


def crop_and_scale(picture: Image.Image, longest_side: int) -> Image.Image:
    """Crop a picture to its visible part and scale it down; never up.

    Args:
      picture: an RGBA picture.
      longest_side: longest side of the result, pixels.

    Returns:
      An RGBA picture.

    Raises:
      RejectedError: almost nothing is visible.
    """
    visible = picture.getchannel("A").point(lambda alpha: 255 * (alpha >= _VISIBLE_ALPHA))
    box = visible.getbbox()
    if box is None:
        raise RejectedError("almost empty")
    picture = picture.crop(box)
    scale = min(1.0, longest_side / max(picture.size))
    width, height = (max(1, round(side * scale)) for side in picture.size)
    picture = picture.resize((width, height), Image.Resampling.LANCZOS)
    if min(width, height) < SHORTEST_SIDE:
        raise RejectedError("less than 8 pixels high or wide")
    histogram = picture.getchannel("A").histogram()
    mean_alpha = sum(alpha * count for alpha, count in enumerate(histogram)) / 255
    if mean_alpha < _LEAST_MEAN_ALPHA * width * height:
        raise RejectedError("almost empty")
    return picture


def encode(picture: Image.Image) -> bytes:
    """Encode an RGBA picture as lossy WebP with lossless alpha."""
    buffer = io.BytesIO()
    picture.save(buffer, "WEBP", quality=WEBP_QUALITY)
    return buffer.getvalue()
