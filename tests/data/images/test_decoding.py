"""The cache of decoded images."""

import numpy as np
import pytest

from vljax.data.images import DecodedImageCache


def pixels(height, width=10):
    return np.zeros((height, width, 3), np.uint8)


def test_cached_pixels_are_found_and_read_only():
    cache, image = DecodedImageCache(), pixels(10)
    cache.put((b"file", 100), image)
    assert cache.get((b"file", 100)) is image
    assert cache.get((b"file", 99)) is None
    with pytest.raises(ValueError, match="read-only"):
        image[0] = 1


def test_a_full_cache_keeps_its_first_entries():
    cache = DecodedImageCache(limit=700)
    for name in (b"a", b"b", b"c"):
        cache.put((name, 100), pixels(10))
    assert [cache.get((name, 100)) is not None for name in (b"a", b"b", b"c")] == [1, 1, 0]


def test_an_entry_put_twice_counts_once():
    cache = DecodedImageCache(limit=700)
    for name in (b"a", b"a", b"b"):
        cache.put((name, 100), pixels(10))
    assert cache.get((b"b", 100)) is not None


def test_large_images_are_not_cached():
    cache = DecodedImageCache()
    cache.put((b"a", 10**6), pixels(257, 256))
    cache.put((b"b", 10**6), pixels(256, 256))
    assert cache.get((b"a", 10**6)) is None
    assert cache.get((b"b", 10**6)) is not None
