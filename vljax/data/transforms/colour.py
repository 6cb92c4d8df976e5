"""Random changes of colours."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from vljax.data.transforms.base import Example, Transform, check_probability

if TYPE_CHECKING:
    from PIL import Image


@dataclass(frozen=True)
class ColourJitter(Transform, name="colour_jitter"):
    """Change brightness, contrast, saturation and hue in random order.

    Each of the first three is multiplied by a factor within `1 - value` and `1 + value`; hue moves
    by a fraction of the colour circle within `-hue` and `hue`. This is torchvision's ColorJitter on
    Pillow images.

    >>> grey = np.full((1, 1, 3), 100, np.uint8)
    >>> jitter, rng = ColourJitter(brightness=0.5), np.random.default_rng(0)
    >>> [int(jitter({"image": grey}, rng)["image"][0, 0, 0]) for _ in range(4)]
    [51, 110, 131, 67]
    """

    brightness: float = 0.0
    """Largest change of the factor, 0..1."""
    contrast: float = 0.0
    """Largest change of the factor, 0..1."""
    saturation: float = 0.0
    """Largest change of the factor, 0..1."""
    hue: float = 0.0
    """Largest shift, as a fraction of the colour circle, 0..0.5."""
    probability: float = 1.0
    """Probability that the image is changed."""

    def problems(self) -> Iterator[tuple[str, str]]:
        for field in ("brightness", "contrast", "saturation", "probability"):
            yield from check_probability(field, getattr(self, field))
        if not 0 <= self.hue <= 0.5:
            yield "hue", f"must be within 0 and 0.5, got {self.hue}"

    def __call__(self, example: Example, rng: np.random.Generator) -> Example:
        if rng.random() >= self.probability:
            return example
        from PIL import Image, ImageEnhance

        changes = {
            "brightness": ImageEnhance.Brightness,
            "contrast": ImageEnhance.Contrast,
            "saturation": ImageEnhance.Color,
        }
        image = Image.fromarray(example["image"])
        for name in rng.permutation([*changes, "hue"]).tolist():
            limit = getattr(self, name)
            if limit == 0:
                continue
            if name == "hue":
                image = _shift_hue(image, rng.uniform(-limit, limit))
            else:
                image = changes[name](image).enhance(rng.uniform(1 - limit, 1 + limit))
        return {**example, "image": np.asarray(image)}


def _shift_hue(image: Image.Image, share: float) -> Image.Image:
    from PIL import Image

    hue, saturation, value = image.convert("HSV").split()
    # Unsigned bytes wrap around as the colour circle does; torchvision truncates the shift.
    shifted = np.asarray(hue) + np.uint8(int(share * 255) % 256)
    return Image.merge("HSV", (Image.fromarray(shifted), saturation, value)).convert("RGB")


@dataclass(frozen=True)
class Greyscale(Transform, name="greyscale"):
    """Make images grey, as torchvision's RandomGrayscale does on Pillow images (ITU-R 601).

    >>> red = np.array([[[255, 0, 0]]], np.uint8)
    >>> Greyscale(probability=1.0)({"image": red}, np.random.default_rng(0))["image"].tolist()
    [[[76, 76, 76]]]
    """

    probability: float = 0.1
    """Probability of the change."""

    def problems(self) -> Iterator[tuple[str, str]]:
        yield from check_probability("probability", self.probability)

    def __call__(self, example: Example, rng: np.random.Generator) -> Example:
        if rng.random() >= self.probability:
            return example
        from PIL import Image

        grey = np.asarray(Image.fromarray(example["image"]).convert("L"))
        return {**example, "image": np.repeat(grey[..., None], 3, axis=-1)}
