"""What is behind the objects."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, UInt8

from vljax.data.records import Records

Pixels = UInt8[np.ndarray, "size size 3"]
Colours = Float[np.ndarray, "2 3"]
# Where between the two colours a pixel is: 0 for the first, 255 for the second.
Share = UInt8[np.ndarray, "size size"]

_TRIES = 8
_LEAST_DISTANCE = 80  # between colours, of 442 from black to white


@dataclass(frozen=True)
class Background:
    """What was drawn about a background."""

    kind: str
    """Plain, shaded, striped, checked or mottled."""
    colours: Colours
    """The two it is made of, 0..255."""
    key: int
    """Of the random numbers for the rest."""

    def paint(self, size: int) -> Pixels:
        """The pixels, the same each time."""
        import cv2

        share = _KINDS[self.kind](self._generator(), size)
        first, second = self.colours
        steps = np.linspace(first, second, 256).astype(np.uint8)
        return np.asarray(cv2.applyColorMap(share, steps[:, None]))

    def part_of(self, records: Records, size: int) -> Pixels:
        """A square part of a picture instead. Raises ExampleError if it cannot be decoded."""
        return _part_of_one(self._generator(), size, records)

    def _generator(self) -> np.random.Generator:
        return np.random.Generator(np.random.Philox(key=self.key))


def draw(rng: np.random.Generator, objects: Float[np.ndarray, "objects 3"]) -> Background:
    """A background from which objects stand out.

    Args:
      rng: where the draws come from.
      objects: mean colours of the objects.
    """
    kind = list(_KINDS)[int(rng.integers(len(_KINDS)))]
    palettes = rng.uniform(0, 255, (_TRIES, 2, 3))
    palettes[:, 1] = palettes[:, 0] + rng.uniform(-60, 60, (_TRIES, 3))
    grey = palettes.mean(-1, keepdims=True)
    palettes = (0.4 * grey + 0.6 * palettes).clip(0, 255)
    gaps = np.linalg.norm(palettes[:, :, None] - objects, axis=-1).min((1, 2))
    enough = gaps >= _LEAST_DISTANCE
    chosen = int(np.argmax(enough)) if enough.any() else int(np.argmax(gaps))
    return Background(kind, palettes[chosen], int(rng.integers(2**63)))


def _part_of_one(rng: np.random.Generator, size: int, records: Records) -> Pixels:
    """At least half as high and wide as the largest square in it."""
    import cv2
    from PIL import Image

    from vljax.data.images.decoding import FORMATS, image_errors

    index = int(rng.integers(len(records)))
    content = records.image(index)
    with image_errors(), Image.open(io.BytesIO(content), formats=FORMATS) as image:
        pixels = np.asarray(image.convert("RGB"))
    height, width = pixels.shape[:2]
    side = max(1, int(min(height, width) * rng.uniform(0.5, 1)))
    top, left = (int(rng.integers(0, edge - side + 1)) for edge in (height, width))
    part = np.ascontiguousarray(pixels[top : top + side, left : left + side])
    kind = cv2.INTER_AREA if side > size else cv2.INTER_LINEAR
    return np.asarray(cv2.resize(part, (size, size), interpolation=kind))


def _plain(rng: np.random.Generator, size: int) -> Share:
    return np.zeros((size, size), np.uint8)


def _shaded(rng: np.random.Generator, size: int) -> Share:
    along = _waves(rng, size)
    low, high = along.min(), along.max()
    return ((along - low) * (255 / (high - low))).astype(np.uint8)


def _striped(rng: np.random.Generator, size: int) -> Share:
    along = _waves(rng, size) + np.float32(2 * size)  # no stripe on both sides of 0
    return _alternate(along * np.float32(1 / (size * rng.uniform(0.04, 0.12))))


def _checked(rng: np.random.Generator, size: int) -> Share:
    places = np.arange(size) / (size * rng.uniform(0.06, 0.14))
    return _alternate(np.floor(places)[:, None] + np.floor(places))


def _mottled(rng: np.random.Generator, size: int) -> Share:
    import cv2

    cells = int(rng.integers(6, 20))
    coarse = rng.integers(0, 256, (cells, cells), np.uint8)
    return np.asarray(cv2.resize(coarse, (size, size), interpolation=cv2.INTER_CUBIC))


_KINDS: dict[str, Callable[[np.random.Generator, int], Share]] = {
    "plain": _plain,
    "shaded": _shaded,
    "striped": _striped,
    "checked": _checked,
    "mottled": _mottled,
}


def _waves(rng: np.random.Generator, size: int) -> Float[np.ndarray, "size size"]:
    """How far each pixel lies in a random direction, pixels."""
    angle = rng.uniform(0, 2 * np.pi)
    places = np.arange(size, dtype=np.float32)
    cosine, sine = np.float32(np.cos(angle)), np.float32(np.sin(angle))
    return np.asarray(places[:, None] * sine + places * cosine)


def _alternate(count: Float[np.ndarray, "size size"]) -> Share:
    """The first colour where the whole part of a count is even, the second where it is odd."""
    return ((count.astype(np.int32) & 1) * 255).astype(np.uint8)
