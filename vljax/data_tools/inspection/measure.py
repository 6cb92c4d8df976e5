"""What is measured of each example: a row for it, and a row for each of its captions."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import cv2
import numpy as np
from jaxtyping import UInt8

from vljax.data.images.decoding import (
    FORMATS,
    MODES,
    ImageHeader,
    decode_image,
    image_errors,
    read_header,
)
from vljax.data.images.jpeg import Box, JpegImage, orient
from vljax.data.records import REJECTION_KINDS, ExampleError, Record, Records
from vljax.data.tokenizers.base import LoadedTokenizer
from vljax.data_tools.inspection.likeness import COLOURS, signature

OUTCOMES = ("usable", *REJECTION_KINDS)
"""What becomes of an example."""

EXAMPLE = np.dtype(
    [
        ("index", "<i8"),
        ("kind", "u1"),
        ("label", "<i8"),  # -1 where there is none
        ("captions", "<i4"),  # without blank ones
        ("blank", "<i4"),
        ("tags", "<i4"),
        ("bytes", "<i8"),  # of the image file; -1 where the record cannot be read
        ("digest", "V16"),
        ("format", "u1"),
        ("mode", "u1"),
        ("alpha", "?"),
        ("orientation", "u1"),
        ("width", "<i4"),  # as it is to be seen; 0 where the header cannot be read
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
        ("tokens", "<i4"),  # with those that begin and end it, not cut; 0 without a tokenizer
        ("script", "u1"),
        ("digest", "<u8"),
    ]
)
_NAMED = 5


@dataclass
class Measured:
    """What was measured."""

    examples: np.ndarray = field(default_factory=lambda: np.empty(0, EXAMPLE))
    """`EXAMPLE` rows."""
    captions: np.ndarray = field(default_factory=lambda: np.empty(0, CAPTION))
    """`CAPTION` rows of those that are not blank."""
    reasons: dict[str, list[tuple[int, str]]] = field(default_factory=dict)
    """By kind, index and reason of the first examples that cannot be used."""

    @classmethod
    def joined(cls, parts: Sequence[Measured]) -> Measured:
        """All parts as one, in their order."""
        reasons: dict[str, list[tuple[int, str]]] = {}
        for part in parts:
            for kind, named in part.reasons.items():
                reasons[kind] = [*reasons.get(kind, []), *named][:_NAMED]
        examples = [np.empty(0, EXAMPLE), *(part.examples for part in parts)]
        captions = [np.empty(0, CAPTION), *(part.captions for part in parts)]
        return cls(np.concatenate(examples), np.concatenate(captions), reasons)


@dataclass(frozen=True)
class Measurer:
    """Measures examples. Travels to worker processes."""

    records: Records
    """The opened data set."""
    tokenizer: LoadedTokenizer | None
    """Counts tokens."""
    max_pixels: int
    """Images with more cannot be used."""
    decodes: bool
    """Whether images are decoded, without which damage and likeness stay unknown."""

    def __call__(self, indices: Iterable[int]) -> Measured:
        """Measures the examples with these indices."""
        examples, captions = [], []
        reasons: dict[str, list[tuple[int, str]]] = {}
        for index in indices:
            row: dict[str, Any] = {"index": index, "label": -1, "bytes": -1}
            try:
                record = self.records[index]
                captions.extend(self._texts(index, record, row))
                self._image(record.image, row)
                if not row["captions"]:
                    raise ExampleError("no caption", kind="no_caption")
            except ExampleError as error:
                kind = error.kind if error.kind in REJECTION_KINDS else "other"
                row["kind"] = OUTCOMES.index(kind)
                reasons.setdefault(kind, []).append((index, str(error)))
            examples.append(_filled(row))
        named = {kind: those[:_NAMED] for kind, those in reasons.items()}
        return Measured(np.array(examples, EXAMPLE), np.array(captions, CAPTION), named)

    def _texts(self, index: int, record: Record, row: dict[str, Any]) -> list[tuple[Any, ...]]:
        texts = [text for text in record.captions if text.strip()]
        row["captions"], row["blank"] = len(texts), len(record.captions) - len(texts)
        row["tags"] = len(record.tags)
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
    """Equal for captions that differ in letter case and white space alone."""
    plain = " ".join(text.split()).lower().encode("utf-8", "surrogatepass")
    return int.from_bytes(hashlib.blake2b(plain, digest_size=8).digest(), "little")


# --- Images decoded no finer than they are needed -------------------------------------------------

WHITE = (255, 255, 255)


def small_pixels(
    content: bytes, header: ImageHeader, side: int, max_pixels: int
) -> UInt8[np.ndarray, "height width 3"]:
    """The image as it is to be seen, on white, at any size of at least `side` pixels each way.

    An image that has fewer pixels comes as it is.

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
    """The whole image on white, at most `longest` pixels each way, never enlarged.

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


# --- Which script a text is written in ------------------------------------------------------------

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
"""Unicode's names (UAX 24); "other" stands for the rest of them."""


def script_of(text: str) -> str:
    """The script that most letters of a text are of; of two with as many, the first in `SCRIPTS`.

    Marks that a script puts on its letters count with them.
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
