"""Near duplicate images: a short signature of each image, and groups of similar signatures.

The signature is a difference hash (N. Krawetz, "Kind of Like That", hackerfactor.com, 2013) in both
directions, and coarse colours: two balloons of the same shape in two colours are different images.
"""

from __future__ import annotations

from collections.abc import Iterator

import cv2
import numpy as np
from jaxtyping import Int64, UInt8, UInt64

HASH_BITS = 128
MAX_BITS = 7
"""Number of bits in which the hashes of near duplicates may differ."""
MAX_COLOUR = 8.0
"""Mean difference of the colours that near duplicates may have, of 255."""
COLOURS = 48

# The hash is split into bands, one more than the bits that may differ. Near duplicates then have at
# least one equal band, so only images with an equal band are compared.
_BANDS = MAX_BITS + 1
# Smaller brightness differences count as equal: compression adds such noise to flat areas.
_MIN_STEP = 2.0
_SIDE = 72
# Bits are shuffled so that no band covers a single area, such as sky or white paper.
_SHUFFLED = np.random.default_rng(0).permutation(HASH_BITS)
_BLOCK = 1024


def signature(
    pixels: UInt8[np.ndarray, "height width 3"],
) -> tuple[UInt64[np.ndarray, "2"], UInt8[np.ndarray, "48"]]:
    """Hash and colours of an image, resized to a square.

    The hash has one bit for each of 8 x 8 cells and each direction: whether the next cell is
    lighter. Colours are the means of 4 x 4 cells.

    >>> pixels = np.zeros((60, 80, 3), np.uint8)
    >>> hashed, colours = signature(pixels)
    >>> int(hashed.sum()), int(colours.max())
    (0, 0)
    """
    small = cv2.resize(pixels, (_SIDE, _SIDE), interpolation=cv2.INTER_AREA).astype(np.float32)
    grey = _means(small, 9) @ np.array([0.299, 0.587, 0.114], np.float32)  # ITU-R BT.601
    across = grey[:8, 1:] - grey[:8, :-1]
    down = grey[1:, :8] - grey[:-1, :8]
    bits = np.concatenate([across.ravel(), down.ravel()])[_SHUFFLED] >= _MIN_STEP
    hashed = np.packbits(bits).view("<u8").astype(np.uint64)
    return hashed, _means(small, 4).round().astype(np.uint8).ravel()


def _means(image: np.ndarray, cells: int) -> np.ndarray:
    side = _SIDE // cells
    return image.reshape(cells, side, cells, side, 3).mean(axis=(1, 3))


def near_duplicate_groups(
    hashes: UInt64[np.ndarray, "images 2"], colours: UInt8[np.ndarray, "images 48"]
) -> list[Int64[np.ndarray, " group"]]:
    """Groups of near duplicates: the connected components of all similar pairs.

    Returns:
      Row numbers, ascending, of each group of two or more; groups are sorted by their first row.
    """
    signatures = np.concatenate([np.ascontiguousarray(hashes).view(np.uint8), colours], axis=1)
    distinct, first, of_row = np.unique(
        np.ascontiguousarray(signatures).view(f"V{signatures.shape[1]}").ravel(),
        return_index=True,
        return_inverse=True,
    )
    parent = np.arange(len(distinct))
    for left, right in _pairs(hashes[first], colours[first]):
        _join(parent, left, right)
    roots = np.array([_root(parent, i) for i in range(len(distinct))], np.int64)[of_row]
    order = np.argsort(roots, kind="stable")
    starts = np.flatnonzero(np.diff(roots[order])) + 1
    groups = [group for group in np.split(order, starts) if len(group) > 1]
    return sorted(groups, key=lambda group: int(group[0]))


def _pairs(hashes: np.ndarray, colours: np.ndarray) -> Iterator[tuple[int, int]]:
    bands = np.ascontiguousarray(hashes).view(np.uint16)
    assert bands.shape[1:] == (_BANDS,)
    for band in range(_BANDS):
        order = np.argsort(bands[:, band], kind="stable")
        starts = np.flatnonzero(np.diff(bands[order, band])) + 1
        for rows in np.split(order, starts):
            if len(rows) == 1:
                continue
            blocks = [rows[start : start + _BLOCK] for start in range(0, len(rows), _BLOCK)]
            for i, some in enumerate(blocks):
                for others in blocks[i:]:
                    yield from _near(some, others, hashes, colours)


def _near(
    some: np.ndarray, others: np.ndarray, hashes: np.ndarray, colours: np.ndarray
) -> Iterator[tuple[int, int]]:
    different = np.bitwise_count(hashes[some][:, None] ^ hashes[others][None]).sum(-1)
    i, j = np.nonzero(different <= MAX_BITS)
    left, right = some[i], others[j]
    left, right = left[left < right], right[left < right]
    apart = np.abs(colours[left].astype(np.int16) - colours[right]).mean(axis=1)
    close = apart <= MAX_COLOUR
    yield from zip(left[close].tolist(), right[close].tolist(), strict=True)


def _root(parent: np.ndarray, i: int) -> int:
    while parent[i] != i:
        parent[i] = parent[parent[i]]
        i = int(parent[i])
    return i


def _join(parent: np.ndarray, left: int, right: int) -> None:
    roots = sorted((_root(parent, left), _root(parent, right)))
    parent[roots[1]] = roots[0]
