"""Near duplicates: the same pictures, written by Pillow at other sizes and qualities."""

import io

import numpy as np
import pytest
from PIL import Image

from tests.data.samples import picture
from vljax.data_tools.inspection.near_duplicates import near_duplicate_groups, signature


def signatures(images):
    both = [signature(np.asarray(image)) for image in images]
    return np.array([one for one, _ in both]), np.array([two for _, two in both])


def jpeg(image, quality):
    file = io.BytesIO()
    image.save(file, "JPEG", quality=quality)
    return Image.open(file).convert("RGB")


@pytest.mark.parametrize(
    "changed",
    [
        lambda image: jpeg(image, 40),
        lambda image: image.resize((image.width // 2, image.height // 2)),
        lambda image: image.resize((image.width * 2, image.height * 2), Image.Resampling.NEAREST),
    ],
)
def test_another_quality_or_size_is_a_near_duplicate(changed):
    images = [Image.fromarray(picture(90, 120, seed=i)) for i in range(20)]
    groups = near_duplicate_groups(*signatures([*images, *map(changed, images)]))
    assert [group.tolist() for group in groups] == [[i, i + 20] for i in range(20)]


def test_another_colour_is_not_a_near_duplicate():
    red, blue = np.full((60, 60, 3), 255, np.uint8), np.full((60, 60, 3), 255, np.uint8)
    red[20:40, 20:40], blue[20:40, 20:40] = (250, 60, 60), (60, 60, 250)
    assert near_duplicate_groups(*signatures([red, blue])) == []
    assert [group.tolist() for group in near_duplicate_groups(*signatures([red, blue, red]))] == [
        [0, 2]
    ]


def test_bands_find_all_pairs_within_the_limit():
    rng = np.random.default_rng(0)
    hashes = np.repeat(rng.integers(0, 2**63, (40, 2), np.uint64), 3, axis=0)
    hashes[1::3, 0] ^= np.uint64(0b1111111)  # 7 bits
    hashes[2::3, 1] ^= np.uint64(0xFF)  # 8 bits
    groups = near_duplicate_groups(hashes, np.zeros((120, 48), np.uint8))
    assert [group.tolist() for group in groups] == [[3 * i, 3 * i + 1] for i in range(40)]


def test_no_images_have_no_groups():
    assert near_duplicate_groups(np.zeros((0, 2), np.uint64), np.zeros((0, 48), np.uint8)) == []
