"""Random corruptions of images: hidden rectangles, blur, noise."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np

from vljax.data.images import Colour
from vljax.data.transforms.base import (
    Example,
    Transform,
    check_colour,
    check_probability,
    check_range,
)


@dataclass(frozen=True)
class Occlude(Transform, name="occlude"):
    """Hide a random rectangle (random erasing, Zhong et al. 2017, algorithm 1).

    The rectangle is drawn as in torchvision's RandomErasing: its area uniformly, its aspect ratio
    uniformly on a logarithmic scale. If it is not smaller than the image, it is drawn again, up to
    ten times in all.

    >>> white = np.full((10, 10, 3), 255, np.uint8)
    >>> occlude = Occlude(probability=1.0, scale=(0.2, 0.2), ratio=(1.0, 1.0))
    >>> int((occlude({"image": white}, np.random.default_rng(0))["image"] == 0).all(-1).sum())
    16
    """

    probability: float = 0.5
    """Probability of the change."""
    scale: tuple[float, float] = (0.02, 0.33)
    """Smallest and largest area as a fraction of the image."""
    ratio: tuple[float, float] = (0.3, 3.3)
    """Smallest and largest height / width."""
    fill: Literal["colour", "noise"] = "colour"
    """"colour" fills with one colour; "noise" draws each channel of each pixel from 0..255."""
    colour: Colour = (0, 0, 0)
    """Red, green, blue of the rectangle, 0..255."""

    def problems(self) -> Iterator[tuple[str, str]]:
        yield from check_probability("probability", self.probability)
        yield from check_range("scale", self.scale)
        yield from check_range("ratio", self.ratio)
        yield from check_colour("colour", self.colour)
        if self.scale[1] > 1:
            yield "scale", f"must not exceed 1, the whole image, got {self.scale[1]}"

    def __call__(self, example: Example, rng: np.random.Generator) -> Example:
        if rng.random() >= self.probability:
            return example
        image = example["image"].copy()
        for _ in range(10):
            area = image.shape[0] * image.shape[1] * rng.uniform(*self.scale)
            ratio = math.exp(rng.uniform(math.log(self.ratio[0]), math.log(self.ratio[1])))
            height, width = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
            if height < image.shape[0] and width < image.shape[1]:
                top = int(rng.integers(0, image.shape[0] - height + 1))
                left = int(rng.integers(0, image.shape[1] - width + 1))
                hidden = image[top : top + height, left : left + width]
                if self.fill == "noise":
                    hidden[:] = rng.integers(0, 256, hidden.shape, dtype=np.uint8)
                else:
                    hidden[:] = self.colour
                break
        return {**example, "image": image}


@dataclass(frozen=True)
class Blur(Transform, name="blur"):
    """Blur with a Gaussian kernel, as SimCLR does (Chen et al. 2020, appendix A).

    The kernel ends at three standard deviations; the image is reflected at its edges.

    >>> dot = np.zeros((5, 5, 3), np.uint8)
    >>> dot[2, 2] = 255
    >>> blur = Blur(probability=1.0, sigma=(1.0, 1.0))
    >>> int((blur({"image": dot}, np.random.default_rng(0))["image"] > 0).all(-1).sum())
    25
    """

    probability: float = 0.5
    """Probability of the change."""
    sigma: tuple[float, float] = (0.1, 2.0)
    """Smallest and largest standard deviation, pixels, drawn uniformly."""

    def problems(self) -> Iterator[tuple[str, str]]:
        yield from check_probability("probability", self.probability)
        yield from check_range("sigma", self.sigma)

    def __call__(self, example: Example, rng: np.random.Generator) -> Example:
        if rng.random() >= self.probability:
            return example
        import cv2

        sigma = rng.uniform(*self.sigma)
        size = 2 * math.ceil(3 * sigma) + 1
        image = cv2.GaussianBlur(
            example["image"], (size, size), sigma, borderType=cv2.BORDER_REFLECT_101
        )
        return {**example, "image": image}


@dataclass(frozen=True)
class Noise(Transform, name="noise"):
    """Add normal noise to each channel of each pixel, clipped to 0..255.

    >>> grey = np.full((100, 100, 3), 128, np.uint8)
    >>> noise = Noise(probability=1.0, sigma=(5.0, 5.0))
    >>> float(noise({"image": grey}, np.random.default_rng(0))["image"].std().round(1))
    5.0
    """

    probability: float = 0.5
    """Probability of the change."""
    sigma: tuple[float, float] = (1.0, 10.0)
    """Smallest and largest standard deviation, in pixel values (0..255), drawn uniformly."""

    def problems(self) -> Iterator[tuple[str, str]]:
        yield from check_probability("probability", self.probability)
        yield from check_range("sigma", self.sigma)

    def __call__(self, example: Example, rng: np.random.Generator) -> Example:
        if rng.random() >= self.probability:
            return example
        image, sigma = example["image"], np.float32(rng.uniform(*self.sigma))
        noisy = image + sigma * rng.standard_normal(image.shape, np.float32)
        return {**example, "image": noisy.round().clip(0, 255).astype(np.uint8)}
