"""What users pass to `encode_image` and `encode_text`, one by one and in batches of few shapes."""

from __future__ import annotations

import io
import itertools
import os
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar

import numpy as np

T = TypeVar("T")

ROWS = (1, 4, 16, 64, 256)
"""The numbers of rows that are computed at a time: bounds memory and the number of compiles."""

_IMAGES = (
    "pass a list of paths, contents of image files (bytes), PIL images or arrays uint8[height,"
    " width, 3]"
)


def texts_of(texts: Any) -> Iterator[str]:
    """The texts, one by one; a lone string is one text.

    >>> list(texts_of("a cat")), list(texts_of(("a cat", "a dog")))
    (['a cat'], ['a cat', 'a dog'])

    Raises:
      TypeError: for anything that is not a text.
    """
    wanted = "pass a list of strings"
    for number, text in enumerate([texts] if isinstance(texts, str) else _each(texts, wanted)):
        if not isinstance(text, str):
            raise TypeError(f"texts[{number}] is {_kind(text)}, not a string; {wanted}")
        yield text


def is_lone_image(images: Any) -> bool:
    """Whether a value is one image, not several.

    >>> is_lone_image("cat.png"), is_lone_image(["cat.png"])
    (True, False)
    """
    lone = isinstance(images, str | os.PathLike | bytes | bytearray | memoryview)
    # Without `__len__`, a PIL image would fail later; an array of 4 axes is a batch of images.
    return lone or _is_pillow(images) or (hasattr(images, "ndim") and images.ndim < 4)


def images_of(images: Any, read: Callable[[str], T]) -> Iterator[tuple[str, bytes | T]]:
    """For each image a name for messages, and the content of an image file.

    Pixels of PIL images and arrays become PNG files, which keep every value. A lone image is one
    image.

    >>> [(name, file[1:4]) for name, file in images_of([np.zeros((2, 2, 3), np.uint8)], open)]
    [('images[0]', b'PNG')]

    Args:
      images: paths, contents of files, PIL images or arrays, alone or in any iterable.
      read: what to give in place of the path of a file, such as its content.

    Raises:
      TypeError: for anything else.
      ValueError: for arrays of another shape or type.
    """
    several = [images] if is_lone_image(images) else _each(images, _IMAGES)
    for number, image in enumerate(several):
        name = f"images[{number}]"
        if isinstance(image, str | os.PathLike):
            path = os.fspath(image)
            name = path.decode() if isinstance(path, bytes) else path
            yield name, read(name)
        elif isinstance(image, bytes | bytearray | memoryview):
            yield name, bytes(image)
        elif _is_pillow(image):
            yield name, _png(image)
        elif hasattr(image, "__array__"):
            yield name, _png_of_array(np.asarray(image), name)
        else:
            raise TypeError(f"{name} is {_kind(image)}, not an image; {_IMAGES}")


def batches(items: Iterable[T]) -> Iterator[tuple[list[T], int]]:
    """Items in batches, each with the number of rows, one of `ROWS`, to pad it to.

    >>> [(len(batch), rows) for batch, rows in batches(range(301))]
    [(256, 256), (45, 64)]
    """
    iterator = iter(items)
    while taken := list(itertools.islice(iterator, ROWS[-1])):
        while taken:
            rows = next(n for n in ROWS if n >= len(taken))
            # Less than half full: a smaller batch and a rest take less time.
            rows = rows if 2 * len(taken) >= rows else max(n for n in ROWS if n < rows)
            yield taken[:rows], rows
            taken = taken[rows:]


def padded(array: np.ndarray, rows: int) -> np.ndarray:
    """An array with its last row repeated up to a number of rows.

    Rows of zeros will not do: a text without any token could divide by zero in the model.
    """
    if len(array) == rows:
        return array
    return np.concatenate([array, np.repeat(array[-1:], rows - len(array), axis=0)])


def _each(values: Any, wanted: str) -> Iterable[Any]:
    if isinstance(values, bytes | bytearray) or not isinstance(values, Iterable):
        raise TypeError(f"got {_kind(values)}; {wanted}")
    return values


def _kind(value: Any) -> str:
    return "None" if value is None else f"of type {type(value).__name__}"


def _is_pillow(value: Any) -> bool:
    if not hasattr(value, "getexif"):
        return False
    from PIL import Image

    return isinstance(value, Image.Image)


def _png(image: Any) -> bytes:
    from PIL import ImageOps

    upright = ImageOps.exif_transpose(image)
    if upright.mode not in ("1", "L", "LA", "I;16", "P", "RGB", "RGBA"):
        upright = upright.convert("RGB")
    stream = io.BytesIO()
    upright.save(stream, "PNG", compress_level=1)
    return stream.getvalue()


def _png_of_array(array: np.ndarray, name: str) -> bytes:
    from PIL import Image

    if array.dtype != np.uint8:
        raise ValueError(f"{name} is an array of {array.dtype}; pixels have to be uint8, 0 to 255")
    flat = array[..., 0] if array.ndim == 3 and array.shape[-1] == 1 else array
    image = flat.ndim == 2 or (flat.ndim == 3 and flat.shape[-1] in (3, 4))
    if not image or not flat.size:
        raise ValueError(
            f"{name} is an array of shape {list(array.shape)}; an image has the shape [height,"
            " width, 3], or 1 or 4 channels, or [height, width]"
        )
    return _png(Image.fromarray(flat))
