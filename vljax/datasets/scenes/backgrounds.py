"""Draw the background of a scene."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, UInt8

from vljax.data.records import Records

Pixels = UInt8[np.ndarray, "size size 3"]
Colours = Float[np.ndarray, "2 3"]
# Mixture of the two colours at each pixel: 0 is the first colour, 255 the second.
Blend = UInt8[np.ndarray, "size size"]

_TRIES = 8
_LEAST_DISTANCE = 80  # between RGB colours; black and white are 442 apart


@dataclass(frozen=True)
class Background:
    """A background before it is painted."""

    kind: str
    """Plain, shaded, striped, checked or mottled."""
    colours: Colours
    """Its two colours, 0..255."""
    key: int
    """Key of the random numbers for its pattern."""

    def paint(self, size: int) -> Pixels:
        """The pixels, the same for each call."""
        import cv2

        blend = _KINDS[self.kind](self._generator(), size)
        first, second = self.colours
        steps = np.linspace(first, second, 256).astype(np.uint8)
        return np.asarray(cv2.applyColorMap(blend, steps[:, None]))

    def part_of(self, records: Records, size: int) -> Pixels:
        """A random square of a random picture. Raises ExampleError if the picture is damaged."""
        return _random_square(self._generator(), size, records)

    def _generator(self) -> np.random.Generator:
        return np.random.Generator(np.random.Philox(key=self.key))


def draw(rng: np.random.Generator, objects: Float[np.ndarray, "objects 3"]) -> Background:
    """Draw a background whose colours differ from those of the objects.

    Args:
      rng: source of randomness.
      objects: mean colours of the objects, 0..255.
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


def _random_square(rng: np.random.Generator, size: int, records: Records) -> Pixels:
    """A square of a random picture, at least half as wide as the largest square in it."""
    import cv2

    from vljax.data.images import MAX_PIXELS, check_pixels, image_errors
    from vljax.data.opened_images import open_image

    index = int(rng.integers(len(records)))
    content = records.image(index)
    with image_errors(content), open_image(content) as image:
        check_pixels(image.width, image.height, MAX_PIXELS)
        pixels = np.asarray(image.convert("RGB"))
    height, width = pixels.shape[:2]
    side = max(1, int(min(height, width) * rng.uniform(0.5, 1)))
    top, left = (int(rng.integers(0, edge - side + 1)) for edge in (height, width))
    part = np.ascontiguousarray(pixels[top : top + side, left : left + side])
    kind = cv2.INTER_AREA if side > size else cv2.INTER_LINEAR
    return np.asarray(cv2.resize(part, (size, size), interpolation=kind))


def _plain(rng: np.random.Generator, size: int) -> Blend:
    return np.zeros((size, size), np.uint8)


def _shaded(rng: np.random.Generator, size: int) -> Blend:
    along = _distances(rng, size)
    low, high = along.min(), along.max()
    return ((along - low) * (255 / (high - low))).astype(np.uint8)


def _striped(rng: np.random.Generator, size: int) -> Blend:
    # The offset keeps distances positive: truncation to int would make a double stripe around 0.
    along = _distances(rng, size) + np.float32(2 * size)
    return _alternate(along * np.float32(1 / (size * rng.uniform(0.04, 0.12))))


def _checked(rng: np.random.Generator, size: int) -> Blend:
    squares = np.floor(np.arange(size) / (size * rng.uniform(0.06, 0.14)))
    return _alternate(squares[:, None] + squares)


def _mottled(rng: np.random.Generator, size: int) -> Blend:
    import cv2

    cells = int(rng.integers(6, 20))
    coarse = rng.integers(0, 256, (cells, cells), np.uint8)
    return np.asarray(cv2.resize(coarse, (size, size), interpolation=cv2.INTER_CUBIC))


_KINDS: dict[str, Callable[[np.random.Generator, int], Blend]] = {
    "plain": _plain,
    "shaded": _shaded,
    "striped": _striped,
    "checked": _checked,
    "mottled": _mottled,
}


def _distances(rng: np.random.Generator, size: int) -> Float[np.ndarray, "size size"]:
    """Signed distance of each pixel from the origin along a random direction, pixels."""
    angle = rng.uniform(0, 2 * np.pi)
    pixels = np.arange(size, dtype=np.float32)
    cosine, sine = np.float32(np.cos(angle)), np.float32(np.sin(angle))
    return np.asarray(pixels[:, None] * sine + pixels * cosine)


def _alternate(count: Float[np.ndarray, "size size"]) -> Blend:
    """The first colour where the integer part of a count is even, the second where it is odd."""
    return ((count.astype(np.int32) & 1) * 255).astype(np.uint8)
