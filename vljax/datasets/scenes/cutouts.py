"""Collect the objects of scenes: pictures with alpha whose caption names one thing."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, UInt8

from vljax.config import UserError, suggest
from vljax.data.records import ExampleError, Records
from vljax.datasets.scenes.names import (
    COLOURS,
    colour_words,
    key_words,
    object_name,
    plural,
    spelling,
)

# Classes of the built-in set and the stamps whose pictures do not show an object.
CLASSES_WITHOUT_OBJECTS = (
    "decorations",
    "flags",
    "geography",
    "natural forces",
    "patterns",
    "signs and symbols",
    "symbols",
)
VISIBLE_ALPHA = 128

_LEAST_CUT_AWAY = 0.05
_LONGEST_ASPECT = 3.0
_MOST_PIXELS = 16_000_000


@dataclass(frozen=True)
class Cutout:
    """One picture, cropped to its visible part."""

    pixels: UInt8[np.ndarray, "height width 4"]
    """Red, green and blue multiplied by alpha, then alpha."""
    colour: str | None
    """Name of its colour; None if people might disagree."""
    mean: Float[np.ndarray, "3"]
    """Mean red, green and blue of the visible part, 0..255."""


@dataclass(frozen=True)
class Thing:
    """A name, and all pictures with this name."""

    name: str
    """Name in the singular, such as "cup of tea"."""
    plural: str
    """Name in the plural, such as "cups of tea"."""
    words: frozenset[str]
    """Words of the name that another name of the same thing may share (`names.key_words`)."""
    tags: frozenset[str]
    """Tags of its pictures."""
    cutouts: tuple[Cutout, ...]
    """Its pictures."""

    def may_be(self, other: Thing) -> bool:
        """Whether one of the names might also name a picture of the other."""
        return bool(self.words & other.words or self.name in other.tags or other.name in self.tags)


def collect(
    records: Records, leave_out: Sequence[str] | None, longest: int, shortest: int
) -> list[Thing]:
    """Collect the things in a data set, by name.

    Names that differ only in spaces and hyphens are one thing, under the most frequent of them.

    Args:
      records: images with alpha, captions in English.
      leave_out: classes to leave out; None for `CLASSES_WITHOUT_OBJECTS`.
      longest: longest side of the pictures, pixels; larger ones are scaled down.
      shortest: longest side to which a picture may shrink; pictures that become unrecognisable at
        this size are left out.

    Raises:
      UserError: for an unknown class.
    """
    for unknown in sorted(set(leave_out or ()) - set(records.class_names)):
        raise UserError(
            f"data.source.leave_out: unknown class {unknown!r}"
            f"{suggest(unknown, records.class_names)}"
        )
    left_out = set(CLASSES_WITHOUT_OBJECTS if leave_out is None else leave_out)
    pictures: dict[str, list[Cutout]] = defaultdict(list)
    tags: dict[str, set[str]] = defaultdict(set)
    for index in range(len(records)):
        about = records.annotation(index)
        named = about.label is not None and about.label < len(records.class_names)
        of_class = records.class_names[about.label or 0] if named else None
        name = object_name(about.first_caption)
        if name is None or of_class in left_out:
            continue
        try:
            cutout = _cut_out(records.image(index), name, longest, shortest)
        except ExampleError:
            continue
        if cutout is not None:
            pictures[name].append(cutout)
            tags[name] |= set(about.tags)
    variants: dict[str, list[str]] = defaultdict(list)
    for name in sorted(pictures, key=lambda name: (-len(pictures[name]), name)):
        variants[spelling(name)].append(name)
    return sorted(
        (
            Thing(
                names[0],
                plural(names[0]),
                key_words(names[0]),
                frozenset().union(*(tags[name] for name in names)),
                tuple(cutout for name in names for cutout in pictures[name]),
            )
            for names in variants.values()
        ),
        key=lambda thing: thing.name,
    )


def _cut_out(content: bytes, name: str, longest: int, shortest: int) -> Cutout | None:
    """Cut out an object; None if it has no transparency, is too long, or vanishes when small."""
    import cv2

    pixels = _decode(content)
    if pixels is None:
        return None
    seen = pixels[..., 3] >= VISIBLE_ALPHA
    rows, columns = (np.flatnonzero(seen.any(axis)) for axis in (1, 0))
    if not rows.size:
        return None
    pixels = pixels[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    height, width = pixels.shape[:2]
    transparent = 1 - (pixels[..., 3] >= VISIBLE_ALPHA).mean()
    if max(height, width) > _LONGEST_ASPECT * min(height, width) or transparent < _LEAST_CUT_AWAY:
        return None
    if max(height, width) > longest:
        pixels = fit(pixels, longest)
    small = fit(pixels, shortest)
    if not _fills(small):
        return None
    mask = pixels[..., 3] >= VISIBLE_ALPHA
    opaque = cv2.cvtColor(pixels, cv2.COLOR_mRGBA2RGBA)[..., :3]
    colour = colour_of(opaque, mask)
    named = {"grey" if word == "gray" else word for word in colour_words(name)}
    if named and named != {colour}:
        colour = None
    return Cutout(np.ascontiguousarray(pixels), colour, opaque[mask].mean(0))


def _decode(content: bytes) -> UInt8[np.ndarray, "height width 4"] | None:
    """Pixels multiplied by alpha; None without alpha. Raises ExampleError for damaged files."""
    import cv2

    from vljax.data.images import image_errors
    from vljax.data.opened_images import open_image

    with image_errors(content), open_image(content) as image:
        if image.width * image.height > _MOST_PIXELS or not image.has_transparency_data:
            return None
        pixels = np.asarray(image.convert("RGBA"))
    return np.asarray(cv2.cvtColor(pixels, cv2.COLOR_RGBA2mRGBA))


def fit(pixels: UInt8[np.ndarray, "height width 4"], side: int) -> UInt8[np.ndarray, "h w 4"]:
    """Scale a picture so that its longest side is `side` pixels, by a factor of at most 1.5."""
    import cv2

    height, width = pixels.shape[:2]
    scale = min(side / max(height, width), 1.5)
    size = max(1, int(width * scale)), max(1, int(height * scale))
    kind = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    return np.asarray(cv2.resize(pixels, size, interpolation=kind))


def _fills(pixels: UInt8[np.ndarray, "height width 4"]) -> bool:
    """Whether the visible part nearly fills the picture, and is not just thin lines."""
    seen = pixels[..., 3] >= VISIBLE_ALPHA
    height, width = seen.shape
    return bool(
        seen.any(1).sum() >= 0.9 * height
        and seen.any(0).sum() >= 0.9 * width
        and seen.mean() >= 0.2
    )


_LEAST_SHARE = 0.65
_MOST_OTHER_SHARE = 0.15
_MOST_OUTLINE = 0.35


def colour_of(
    pixels: UInt8[np.ndarray, "height width 3"], mask: Bool[np.ndarray, "height width"]
) -> str | None:
    """The name of an object's colour; None if people might disagree.

    The hue, saturation and value of a pixel give it a colour name, or none if it is between two.
    The colour must cover 65 % of the object, and no other more than 15 %. Up to 35 % of black
    counts as outline and is left out of the sum.
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
    """`1 + index` into COLOURS for each pixel; 0 for a colour between two names."""
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
