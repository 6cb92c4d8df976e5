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
    """Changes brightness, contrast, saturation and hue in random order.

    Each of the first three by a factor within `1 - value` and `1 + value`, hue by a share of the
    colour circle within `-hue` and `hue`, as torchvision's ColorJitter does on Pillow images.
    """

    brightness: float = 0.0
    """Greatest change, 0..1."""
    contrast: float = 0.0
    """Greatest change, 0..1."""
    saturation: float = 0.0
    """Greatest change, 0..1."""
    hue: float = 0.0
    """Greatest shift, 0..0.5."""
    probability: float = 1.0
    """How often anything changes at all."""

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
    # Unsigned bytes wrap around as the colour circle does; torchvision cuts the shift off.
    shifted = np.asarray(hue) + np.uint8(int(share * 255) % 256)
    return Image.merge("HSV", (Image.fromarray(shifted), saturation, value)).convert("RGB")


@dataclass(frozen=True)
class Greyscale(Transform, name="greyscale"):
    """Makes images grey, as torchvision's RandomGrayscale does on Pillow images (ITU-R 601)."""

    probability: float = 0.1
    """How often."""

    def problems(self) -> Iterator[tuple[str, str]]:
        yield from check_probability("probability", self.probability)

    def __call__(self, example: Example, rng: np.random.Generator) -> Example:
        if rng.random() >= self.probability:
            return example
        from PIL import Image

        grey = np.asarray(Image.fromarray(example["image"]).convert("L"))
        return {**example, "image": np.repeat(grey[..., None], 3, axis=-1)}
