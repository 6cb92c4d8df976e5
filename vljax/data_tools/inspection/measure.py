"""Measurements of each example: one row for the example, and one for each of its captions."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import cv2
import numpy as np
from jaxtyping import UInt8

from vljax.data.images import (
    MODES,
    Box,
    ImageHeader,
    JpegImage,
    decode_image,
    image_errors,
    orient,
    read_header,
)
from vljax.data.opened_images import FORMATS
from vljax.data.records import REJECTION_KINDS, ExampleError, Record, Records
from vljax.data.tokenizers.base import LoadedTokenizer
from vljax.data_tools.inspection.near_duplicates import COLOURS, signature

OUTCOMES = ("usable", *REJECTION_KINDS)
"""Codes of `EXAMPLE["kind"]`: usable, or why the example is rejected."""

EXAMPLE = np.dtype(
    [
        ("index", "<i8"),
        ("kind", "u1"),
        ("label", "<i8"),  # -1 without a label
        ("captions", "<i4"),  # number of captions that are not blank
        ("blank", "<i4"),  # number of blank captions
        ("tags", "<i4"),  # number of tags that are not blank
        ("bytes", "<i8"),  # size of the image file; -1 if the record cannot be read
        ("digest", "V16"),
        ("format", "u1"),
        ("mode", "u1"),
        ("alpha", "?"),
        ("orientation", "u1"),
        ("width", "<i4"),  # after EXIF orientation; 0 if the header cannot be read
        ("height", "<i4"),
        ("decoded", "?"),
        ("hash", "<u8", 2),
        ("colours", "u1", COLOURS),
    ]
)
CAPTION = np.dtype(
    [
        ("index", "<i8"),
        ("characters", "<i4"),
        ("words", "<i4"),
        ("tokens", "<i4"),  # before truncation, with bos and eos; 0 without a tokenizer
        ("script", "u1"),
        ("digest", "<u8"),
    ]
)
_NAMED = 5  # rejected examples that are named for each kind


@dataclass
class Measurements:
    """Measurements of a number of examples."""

    examples: np.ndarray = field(default_factory=lambda: np.empty(0, EXAMPLE))
    """An `EXAMPLE` row for each example."""
    captions: np.ndarray = field(default_factory=lambda: np.empty(0, CAPTION))
    """A `CAPTION` row for each caption that is not blank."""
    reasons: dict[str, list[tuple[int, str]]] = field(default_factory=dict)
    """Index and message of the first rejected examples, by kind."""

    @classmethod
    def joined(cls, parts: Sequence[Measurements]) -> Measurements:
        """Concatenates measurements in order."""
        reasons: dict[str, list[tuple[int, str]]] = {}
        for part in parts:
            for kind, named in part.reasons.items():
                reasons[kind] = [*reasons.get(kind, []), *named][:_NAMED]
        examples = [np.empty(0, EXAMPLE), *(part.examples for part in parts)]
        captions = [np.empty(0, CAPTION), *(part.captions for part in parts)]
        return cls(np.concatenate(examples), np.concatenate(captions), reasons)


@dataclass(frozen=True)
class Measurer:
    """Measures examples by index. It is pickled to worker processes.

    >>> from vljax.datasets import Builtin
    >>> measurer = Measurer(Builtin("test").open(), None, max_pixels=10**6, decodes=False)
    >>> row = measurer([0]).examples[0]
    >>> OUTCOMES[row["kind"]], int(row["width"]), int(row["height"])
    ('usable', 128, 100)
    """

    records: Records
    """The opened data set."""
    tokenizer: LoadedTokenizer | None
    """Tokenizer that counts tokens."""
    max_pixels: int
    """Images with more pixels are rejected."""
    decodes: bool
    """Whether images are decoded. Otherwise damaged files and near duplicates are not found."""

    def __call__(self, indices: Iterable[int]) -> Measurements:
        """The measurements of the examples with these indices."""
        examples, captions = [], []
        reasons: dict[str, list[tuple[int, str]]] = {}
        for index in indices:
            row: dict[str, Any] = {"index": index, "label": -1, "bytes": -1}
            try:
                record = self.records[index]
                captions.extend(self._texts(index, record, row))
                self._image(record.image, row)
                # Training takes tags in place of a caption, if `ChooseText.tags` is above 0.
                if not row["captions"] and not row["tags"]:
                    raise ExampleError("no caption", kind="no_caption")
            except ExampleError as error:
                kind = error.kind if error.kind in REJECTION_KINDS else "other"
                row["kind"] = OUTCOMES.index(kind)
                reasons.setdefault(kind, []).append((index, str(error)))
            examples.append(_filled(row))
        named = {kind: those[:_NAMED] for kind, those in reasons.items()}
        return Measurements(np.array(examples, EXAMPLE), np.array(captions, CAPTION), named)

    def _texts(self, index: int, record: Record, row: dict[str, Any]) -> list[tuple[Any, ...]]:
        texts = [text for text in record.captions if text.strip()]
        row["captions"], row["blank"] = len(texts), len(record.captions) - len(texts)
        row["tags"] = sum(bool(tag.strip()) for tag in record.tags)
        row["label"] = -1 if record.label is None else record.label
        return [
            (
                index,
                len(text),
                len(text.split()),
                0 if self.tokenizer is None else self.tokenizer.count(text),
                SCRIPTS.index(script_of(text)),
                caption_digest(text),
            )
            for text in texts
        ]

    def _image(self, content: bytes, row: dict[str, Any]) -> None:
        row["bytes"] = len(content)
        row["digest"] = hashlib.blake2b(content, digest_size=16).digest()
        header = read_header(content)
        row["format"] = FORMATS.index(header.format)
        row["mode"] = MODES.index(header.mode)
        row["alpha"], row["orientation"] = header.has_alpha, header.orientation
        row["width"], row["height"] = header.width, header.height
        if header.width * header.height > self.max_pixels:
            raise ExampleError(
                f"image has {header.width} x {header.height} pixels, more than {self.max_pixels:,}",
                kind="too_many_pixels",
            )
        if self.decodes:
            pixels = small_pixels(content, header, 72, self.max_pixels)
            row["hash"], row["colours"] = signature(pixels)
            row["decoded"] = True


def _filled(row: dict[str, Any]) -> Any:
    filled = np.zeros((), EXAMPLE)
    for name, value in row.items():
        filled[name] = value
    return filled[()]


def caption_digest(text: str) -> int:
    """A hash of a caption that ignores letter case and white space."""
    plain = " ".join(text.split()).lower().encode("utf-8", "surrogatepass")
    return int.from_bytes(hashlib.blake2b(plain, digest_size=8).digest(), "little")


# --- Small versions of images ---------------------------------------------------------------------

WHITE = (255, 255, 255)


def small_pixels(
    content: bytes, header: ImageHeader, side: int, max_pixels: int
) -> UInt8[np.ndarray, "height width 3"]:
    """The image, oriented and on white, at a size of at least `side` pixels in both directions.

    JPEG files are decoded at a reduced size, which is several times faster. An image that is
    smaller than `side` keeps its size.

    Raises:
      ExampleError: if it cannot be decoded, or has more than `max_pixels`.
    """
    with image_errors():
        image = JpegImage.open(content) if header.format == "JPEG" else None
        if image is not None and image.shape[0] * image.shape[1] <= max_pixels:
            height, width, _ = image.shape
            part = image.part(Box(0, 0, height, width), side, side)
            return np.ascontiguousarray(orient(part.pixels, image.orientation))
    return decode_image(content, WHITE, max_pixels)


def thumbnail(
    content: bytes, header: ImageHeader, longest: int, max_pixels: int
) -> UInt8[np.ndarray, "height width 3"]:
    """The image on white, scaled down to at most `longest` pixels in both directions.

    Raises:
      ExampleError: as `small_pixels` does.
    """
    scale = min(1.0, longest / max(header.width, header.height))
    width = max(1, round(header.width * scale))
    height = max(1, round(header.height * scale))
    pixels = small_pixels(content, header, max(width, height), max_pixels)
    if pixels.shape[:2] == (height, width):
        return pixels
    return cv2.resize(pixels, (width, height), interpolation=cv2.INTER_AREA)


# --- Scripts --------------------------------------------------------------------------------------

SCRIPTS = (
    "Latin",
    "Cyrillic",
    "Greek",
    "Arabic",
    "Hebrew",
    "Devanagari",
    "Bengali",
    "Gujarati",
    "Gurmukhi",
    "Tamil",
    "Telugu",
    "Kannada",
    "Malayalam",
    "Sinhala",
    "Thai",
    "Lao",
    "Khmer",
    "Myanmar",
    "Tibetan",
    "Georgian",
    "Armenian",
    "Ethiopic",
    "Han",
    "Hiragana",
    "Katakana",
    "Hangul",
    "other",
    "no letters",
)
"""Script names of Unicode (UAX 24); "other" stands for all others."""


def script_of(text: str) -> str:
    """The script of most letters of a text; if several are most frequent, the first in `SCRIPTS`.

    Combining marks count as letters.

    >>> script_of("a dog"), script_of("собака dog")
    ('Latin', 'Cyrillic')
    """
    if text.isascii():
        return "Latin" if any(map(str.isalpha, text)) else "no letters"
    counts: dict[str, int] = {}
    for found in _runs().finditer(text):
        name = SCRIPTS[found.lastindex - 1]
        counts[name] = counts.get(name, 0) + len(found.group())
    return max(SCRIPTS, key=lambda name: counts.get(name, 0)) if counts else "no letters"


@functools.cache
def _runs() -> Any:
    import regex

    named = [rf"([[\p{{L}}\p{{M}}]&&\p{{Script={name}}}]+)" for name in SCRIPTS[:-2]]
    return regex.compile("|".join([*named, r"(\p{L}+)"]), regex.V1)
