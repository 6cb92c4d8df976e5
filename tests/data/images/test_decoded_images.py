"""What is kept of decoded images, and what is not."""

import numpy as np
import pytest

from vljax.data.images.decoded_images import DecodedImages


def pixels(height, width=10):
    return np.zeros((height, width, 3), np.uint8)


def test_what_is_kept_is_found_and_read_only():
    images, image = DecodedImages(), pixels(10)
    images.keep((b"file", 100), image)
    assert images.find((b"file", 100)) is image
    assert images.find((b"file", 99)) is None
    with pytest.raises(ValueError, match="read-only"):
        image[0] = 1


def test_nothing_is_kept_beyond_the_limit_and_what_came_first_stays():
    images = DecodedImages(limit=700)
    for name in (b"a", b"b", b"c"):
        images.keep((name, 100), pixels(10))
    assert [images.find((name, 100)) is not None for name in (b"a", b"b", b"c")] == [1, 1, 0]


def test_keeping_twice_counts_once():
    images = DecodedImages(limit=700)
    for name in (b"a", b"a", b"b"):
        images.keep((name, 100), pixels(10))
    assert images.find((b"b", 100)) is not None


def test_large_images_are_not_kept():
    images = DecodedImages()
    images.keep((b"a", 10**6), pixels(257, 256))
    images.keep((b"b", 10**6), pixels(256, 256))
    assert images.find((b"a", 10**6)) is None
    assert images.find((b"b", 10**6)) is not None
