import numpy as np
import pytest
from PIL import Image

from tests.data.samples import picture
from vljax.data.images import Box, cut, resample


@pytest.mark.parametrize(("height", "width"), [(16, 20), (32, 40), (8, 10)])
def test_area_of_a_whole_multiple_is_the_mean_of_its_cells(height, width):
    image = np.random.default_rng(0).integers(0, 256, (64, 80, 3), dtype=np.uint8)
    cells = image.reshape(height, 64 // height, width, 80 // width, 3)
    result = resample(image, height, width, "area")
    # OpenCV rounds once for each halving at most.
    assert np.abs(result - cells.mean((1, 3))).max() <= 0.51


@pytest.mark.parametrize("shape", [(480, 640), (300, 224), (224, 500), (100, 120), (1500, 230)])
def test_area_is_near_bicubic_where_images_shrink_and_where_they_grow(shape):
    image = picture(*shape, seed=2)
    exact = Image.fromarray(image).resize((224, 224), Image.Resampling.BICUBIC)
    difference = np.abs(resample(image, 224, 224, "area") - np.asarray(exact, float))
    assert difference.mean() < 0.5
    assert difference.max() < 10


def test_area_of_fine_grain_has_no_aliasing():
    """A checkerboard of single pixels is grey when it shrinks."""
    board = np.indices((320, 320)).sum(0) % 2 * 255
    image = np.repeat(board[..., None], 3, axis=-1).astype(np.uint8)
    assert np.abs(resample(image, 80, 80, "area").astype(int) - 127.5).max() <= 1
    aliased = resample(image, 81, 81, "bilinear", antialias=False)
    assert aliased.std() > 30


def test_pixels_outside_the_rectangle_have_no_influence():
    image = np.zeros((100, 100, 3), np.uint8)
    image[20:80, 30:70] = 200
    for interpolation in ("bicubic", "bilinear", "area"):
        for size in (16, 30, 90):
            result = cut(image, Box(20, 30, 60, 40), size, size, interpolation)
            assert (result == 200).all()


def test_an_image_of_the_right_size_is_left_alone():
    image = picture(20, 30)
    assert resample(image, 20, 30, "area") is image
