import numpy as np
import pytest

from tests.data.samples import picture
from vljax.data.transforms import Blur, Noise, Occlude

GREY = np.full((60, 90, 3), 128, np.uint8)


def transformed(transform, image=GREY, seed=0):
    return transform({"image": image}, np.random.default_rng(seed))["image"]


def hidden_part(result, image):
    """Top, left, height and width of the rectangle that differs."""
    rows, columns = np.nonzero((result != image).any(-1))
    top, left = rows.min(), columns.min()
    return top, left, rows.max() + 1 - top, columns.max() + 1 - left


def test_rectangles_have_the_set_area_and_ratio_and_reach_every_side():
    occlude = Occlude(1.0, scale=(0.1, 0.3), ratio=(0.5, 2.0), colour=(1, 2, 3))
    parts = []
    for seed in range(600):
        result = transformed(occlude, seed=seed)
        top, left, height, width = part = hidden_part(result, GREY)
        assert (result[top : top + height, left : left + width] == (1, 2, 3)).all()
        parts.append(part)
    top, left, height, width = np.array(parts).T
    share, ratio = height * width / 5400, height / width
    assert share.min() > 0.095
    assert share.max() < 0.31
    assert abs(share.mean() - 0.2) < 0.01
    assert 0.47 < ratio.min() < 0.55
    assert 1.85 < ratio.max() < 2.15
    assert (top.min(), left.min()) == (0, 0)
    assert ((top + height).max(), (left + width).max()) == (60, 90)


def test_a_rectangle_that_never_fits_hides_nothing():
    occlude = Occlude(1.0, scale=(1.0, 1.0), ratio=(1.0, 1.0))
    assert np.array_equal(transformed(occlude), GREY)


def test_fill_noise_has_all_pixel_values():
    result = transformed(Occlude(1.0, scale=(0.3, 0.3), fill="noise"))
    top, left, height, width = hidden_part(result, GREY)
    values = result[top : top + height, left : left + width]
    assert abs(values.mean() - 127.5) < 5
    assert abs(values.std() - 73.9) < 5  # 256 / sqrt(12)


@pytest.mark.parametrize("kind", [Occlude, Blur, Noise])
def test_each_corruption_has_its_probability(kind):
    image = picture(20, 20)
    assert transformed(kind(0.0), image) is image
    changed = sum(transformed(kind(0.25), image, seed) is not image for seed in range(1000))
    assert abs(changed / 1000 - 0.25) < 0.05


@pytest.mark.parametrize("sigma", [0.3, 0.7, 1.0, 1.9, 3.0])
def test_blur_is_a_gaussian(sigma):
    """exp(-x^2 / 2 sigma^2) in float64, over three standard deviations, edges reflected."""
    image = picture(30, 40)
    radius = int(np.ceil(3 * sigma))
    weights = np.exp(-0.5 * (np.arange(-radius, radius + 1) / sigma) ** 2)
    weights /= weights.sum()
    expected = image.astype(np.float64)
    for axis in (0, 1):
        margins = [(radius, radius) if a == axis else (0, 0) for a in range(3)]
        padded = np.pad(expected, margins, "reflect")
        expected = np.apply_along_axis(np.convolve, axis, padded, weights, "valid")
    result = transformed(Blur(1.0, (sigma, sigma)), image)
    assert np.abs(result - expected).max() <= 1.01


def test_noise_is_normal_and_clipped():
    result = transformed(Noise(1.0, (10.0, 10.0))).astype(float) - 128
    assert abs(result.mean()) < 0.3
    # A rounded level adds a variance of 1/12.
    assert abs(result.std() - np.sqrt(100 + 1 / 12)) < 0.2
    assert abs((np.abs(result) < 10.5).mean() - 0.7063) < 0.02
    white = transformed(Noise(1.0, (50.0, 50.0)), np.full((50, 50, 3), 255, np.uint8))
    assert (white == 255).mean() > 0.45  # values above 255 are clipped and do not wrap around
    assert white.min() > 20
