"""RandAugment: a few random operations of the same strength."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from vljax.data.images import Colour
from vljax.data.transforms.base import Example, Transform, check_colour
from vljax.data.transforms.geometry import warp_regions

if TYPE_CHECKING:
    from PIL import Image


@dataclass(frozen=True)
class RandAugment(Transform, name="rand_augment"):
    """Apply random operations one after the other (Cubuk et al. 2019, arXiv 1909.13719).

    The operations, their ranges and their arithmetic are those of torchvision's RandAugment on
    Pillow images. None of them mirrors the image.

    >>> image = np.arange(75, dtype=np.uint8).reshape(5, 5, 3)
    >>> augment = RandAugment(operations=2, magnitude=9)
    >>> changed = augment({"image": image}, np.random.default_rng(0))["image"]
    >>> changed.shape, bool((changed != image).any())
    ((5, 5, 3), True)
    """

    operations: int = 2
    """How many operations, drawn with repetition."""
    magnitude: int = 9
    """Strength of the operations, 0 to `bins - 1`."""
    bins: int = 31
    """Number of strengths that the range of an operation is divided into."""
    interpolation: Literal["nearest", "bilinear"] = "nearest"
    """Interpolation of sheared, shifted and rotated images."""
    fill: Colour = (0, 0, 0)
    """Red, green, blue of pixels that come from outside the image, 0..255."""

    moves_pixels = True

    def problems(self) -> Iterator[tuple[str, str]]:
        yield from check_colour("fill", self.fill)
        if self.operations < 1:
            yield "operations", f"must be at least 1, got {self.operations}"
        if self.bins < 2:
            yield "bins", f"must be at least 2, got {self.bins}"
        elif not 0 <= self.magnitude < self.bins:
            yield "magnitude", f"must be within 0 and bins - 1 = {self.bins - 1}"

    def __call__(self, example: Example, rng: np.random.Generator) -> Example:
        from PIL import Image

        image = Image.fromarray(example["image"])
        moved = dict(example)
        for _ in range(self.operations):
            name = OPERATIONS[int(rng.integers(len(OPERATIONS)))]
            sign = 1 - 2 * int(rng.integers(2)) if name in SIGNED else 1
            image = self.apply(image, name, sign)
            if name in _MOVES:
                matrix = self.matrix(image.width, image.height, name, sign)
                moved |= warp_regions(
                    moved, np.array(matrix, np.float64).reshape(2, 3), *image.size[::-1]
                )
        return {**moved, "image": np.asarray(image)}

    def apply(self, image: Image.Image, name: str, sign: int = 1) -> Image.Image:
        """Apply one operation.

        Args:
          image: an RGB image.
          name: one of `OPERATIONS`.
          sign: -1 reverses the direction of an operation in `SIGNED`.
        """
        if name in _MOVES:
            return self._moved(image, name, sign)
        return _CHANGES[name](image, sign * self._strength(*_RANGES.get(name, (0.0, 0.0))))

    def _strength(self, low: float, high: float) -> float:
        # In float32, as torch.linspace: in float64, whole numbers can come out slightly too small.
        return float(np.linspace(low, high, self.bins, dtype=np.float32)[self.magnitude])

    def _moved(self, image: Image.Image, name: str, sign: int) -> Image.Image:
        from PIL import Image

        resampling = Image.Resampling[self.interpolation.upper()]
        if name == "Rotate":
            angle = sign * self._strength(0, 30)
            return image.rotate(angle, resampling, fillcolor=self.fill)
        matrix = self.matrix(image.width, image.height, name, sign)
        return image.transform(
            image.size, Image.Transform.AFFINE, matrix, resampling, fillcolor=self.fill
        )

    def matrix(self, width: int, height: int, name: str, sign: int) -> tuple[float, ...]:
        """Maps x, y of the result to the image: x' = a x + b y + c, y' = d x + e y + f."""
        if name == "Rotate":
            angle = math.radians(sign * self._strength(0, 30))
            cos, sin = math.cos(angle), math.sin(angle)
            x, y = width / 2, height / 2
            return cos, -sin, x - cos * x + sin * y, sin, cos, y - sin * x - cos * y
        if name.startswith("Shear"):
            shear = sign * self._strength(0, 0.3)
            return (1, shear, 0, 0, 1, 0) if name == "ShearX" else (1, 0, 0, shear, 1, 0)
        length = width if name == "TranslateX" else height
        shift = -int(sign * self._strength(0, 150 / 331 * length))
        return (1, 0, shift, 0, 1, 0) if name == "TranslateX" else (1, 0, 0, 0, 1, shift)


def _enhanced(kind: str) -> Callable[[Image.Image, float], Image.Image]:
    def change(image: Image.Image, strength: float) -> Image.Image:
        from PIL import ImageEnhance

        enhanced: Image.Image = getattr(ImageEnhance, kind)(image).enhance(1 + strength)
        return enhanced

    return change


def _posterized(image: Image.Image, dropped: float) -> Image.Image:
    from PIL import ImageOps

    return ImageOps.posterize(image, 8 - round(dropped))


def _solarized(image: Image.Image, threshold: float) -> Image.Image:
    from PIL import ImageOps

    # Pillow compares with any number; only its type annotation demands an integer.
    return ImageOps.solarize(image, threshold)  # type: ignore[arg-type]


def _autocontrast(image: Image.Image, _: float) -> Image.Image:
    from PIL import ImageOps

    return ImageOps.autocontrast(image)


def _equalized(image: Image.Image, _: float) -> Image.Image:
    from PIL import ImageOps

    return ImageOps.equalize(image)


_CHANGES: dict[str, Callable[[Image.Image, float], Image.Image]] = {
    "Identity": lambda image, _: image,
    "Brightness": _enhanced("Brightness"),
    "Color": _enhanced("Color"),
    "Contrast": _enhanced("Contrast"),
    "Sharpness": _enhanced("Sharpness"),
    "Posterize": _posterized,
    "Solarize": _solarized,
    "AutoContrast": _autocontrast,
    "Equalize": _equalized,
}
_MOVES = ("ShearX", "ShearY", "TranslateX", "TranslateY", "Rotate")
_ENHANCED = ("Brightness", "Color", "Contrast", "Sharpness")

# From the weakest to the strongest.
_RANGES = dict.fromkeys(_ENHANCED, (0.0, 0.9)) | {"Posterize": (0.0, 4.0), "Solarize": (255.0, 0.0)}

OPERATIONS = (*_MOVES, *_CHANGES)
SIGNED = (*_MOVES, *_ENHANCED)
