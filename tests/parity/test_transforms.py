"""Image transforms equal those of torchvision (`make_transforms.py` made the references)."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from vljax.data.images import Box, cut
from vljax.data.transforms import Blur, ColourJitter, Greyscale, RandAugment
from vljax.data.transforms.randaugment import OPERATIONS, SIGNED

REFERENCE = dict(np.load(Path(__file__).parent / "data/transforms.npz"))
IMAGE = REFERENCE["image"]


def named(prefix):
    return [name for name in REFERENCE if name.startswith(prefix)]


class Fixed(np.random.Generator):
    """A generator that returns stored draws."""

    def __init__(self, value):
        super().__init__(np.random.PCG64(0))
        self.value = value

    def random(self):
        return 0.0

    def uniform(self, low, high):
        assert low <= self.value <= high
        return self.value

    def permutation(self, names):
        return np.array(names)


@pytest.mark.parametrize("name", named("rand_augment/"))
def test_rand_augment_operations_equal_torchvision_bitwise(name):
    _, operation, magnitude, sign, interpolation = name.split("/")
    transform = RandAugment(
        magnitude=int(magnitude), interpolation=interpolation, fill=(9, 80, 200)
    )
    changed = transform.apply(Image.fromarray(IMAGE), operation, int(sign))
    assert np.array_equal(np.asarray(changed), REFERENCE[name])


def test_all_operations_are_covered():
    names = {tuple(name.split("/")[1:4:2]) for name in named("rand_augment/")}
    assert {operation for operation, _ in names} == set(OPERATIONS)
    assert {operation for operation, sign in names if sign == "-1"} == set(SIGNED)


@pytest.mark.parametrize("name", named("jitter/"))
def test_jitter_equals_torchvision_bitwise(name):
    _, field, value = name.split("/")
    draw = float(value)
    transform = ColourJitter(**{field: 0.5 if field == "hue" else 0.8})
    changed = transform({"image": IMAGE}, Fixed(draw))["image"]
    assert np.array_equal(changed, REFERENCE[name])


def test_greyscale_equals_torchvision_bitwise():
    assert np.array_equal(
        Greyscale(1.0)({"image": IMAGE}, Fixed(0))["image"], REFERENCE["greyscale"]
    )


@pytest.mark.parametrize("name", named("crop/"))
def test_crops_equal_torchvision_bitwise(name):
    box = Box(*map(int, name.split("/")[1:]))
    assert np.array_equal(cut(IMAGE, box, 16, 16), REFERENCE[name])


@pytest.mark.parametrize("name", named("blur/"))
def test_blur_equals_torchvision_within_one_level(name):
    """OpenCV computes in fixed point."""
    transform = Blur(1.0, sigma=(0.1, 3.0))
    changed = transform({"image": IMAGE}, Fixed(float(name.split("/")[1])))["image"]
    difference = np.abs(changed.astype(int) - REFERENCE[name])
    assert difference.max() <= 1
    assert difference.mean() < 0.05
