"""The colour of an object, where it has one that people would agree on."""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, UInt8

COLOURS = (
    "black",
    "white",
    "grey",
    "red",
    "orange",
    "brown",
    "yellow",
    "green",
    "blue",
    "purple",
    "pink",
)

_LEAST_SHARE = 0.65
_MOST_OTHER_SHARE = 0.15
_MOST_OUTLINE = 0.35


def colour_of(
    pixels: UInt8[np.ndarray, "height width 3"], mask: Bool[np.ndarray, "height width"]
) -> str | None:
    """The name of the colour that an object has, or None if that can be argued about.

    Each pixel has a name by its hue, saturation and value, or none between two names. The colour
    must cover 65 % of the object, and no other more than 15 %. Black up to 35 % counts as outline
    and is left out of the sum.
    """
    names = _name_pixels(pixels)[mask]
    counts = np.bincount(names, minlength=len(COLOURS) + 1)
    if counts[1] <= _MOST_OUTLINE * names.size:
        counts[1] = 0
    total = counts.sum()
    order = np.argsort(counts[1:])[::-1] + 1
    if total == 0 or counts[order[0]] < _LEAST_SHARE * total:
        return None
    if counts[order[1]] > _MOST_OTHER_SHARE * total:
        return None
    return COLOURS[order[0] - 1]


def _name_pixels(pixels: UInt8[np.ndarray, "height width 3"]) -> np.ndarray:
    """1 + index into COLOURS of each pixel; 0 for colours between two names."""
    import cv2

    hue, saturation, value = np.moveaxis(cv2.cvtColor(pixels, cv2.COLOR_RGB2HSV), -1, 0)
    hue = hue.astype(np.int32) * 2  # degrees
    reddish = (hue < 8) | (hue >= 345)
    vivid = (saturation >= 90) & (value >= 60)
    conditions = {
        "black": value < 50,
        "white": (saturation < 25) & (value >= 225),
        "grey": (saturation < 30) & (value >= 70) & (value < 205),
        "pink": vivid & (value >= 180) & ((hue >= 318) & (hue < 340)),
        "red": vivid & reddish & (saturation >= 140),
        "brown": vivid & (hue >= 12) & (hue < 42) & (value < 165),
        "orange": vivid & (hue >= 16) & (hue < 40) & (saturation >= 150) & (value >= 205),
        "yellow": vivid & (hue >= 46) & (hue < 66) & (value >= 170),
        "green": vivid & (hue >= 90) & (hue < 160),
        "blue": vivid & (hue >= 195) & (hue < 255),
        "purple": vivid & (hue >= 265) & (hue < 312),
    }
    light_red = reddish & (saturation >= 60) & (saturation < 125) & (value >= 215)
    conditions["pink"] |= light_red
    numbers = [COLOURS.index(name) + 1 for name in conditions]
    return np.select(list(conditions.values()), numbers, 0)
