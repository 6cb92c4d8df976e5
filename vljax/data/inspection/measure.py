"""What is measured of each example: a row for it, and a row for each of its captions."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from vljax.data.image_header import MODES, read_header
from vljax.data.inspection.likeness import COLOURS, signature
from vljax.data.inspection.pixels import small_pixels
from vljax.data.inspection.scripts import SCRIPTS, script_of
from vljax.data.source_base import KINDS, ExampleError, Record, Records
from vljax.data.tokenizer_base import LoadedTokenizer
from vljax.data.transform_decode import FORMATS

OUTCOMES = ("usable", *KINDS)
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
    """What was measured.

    Attributes:
      examples: `EXAMPLE` rows.
      captions: `CAPTION` rows of those that are not blank.
      reasons: by kind, index and reason of the first examples that cannot be used.
    """

    examples: np.ndarray = field(default_factory=lambda: np.empty(0, EXAMPLE))
    captions: np.ndarray = field(default_factory=lambda: np.empty(0, CAPTION))
    reasons: dict[str, list[tuple[int, str]]] = field(default_factory=dict)

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
    """Measures examples. Travels to worker processes.

    Attributes:
      records: the opened data set.
      tokenizer: counts tokens.
      max_pixels: images with more cannot be used.
      decodes: whether images are decoded, without which damage and likeness stay unknown.
    """

    records: Records
    tokenizer: LoadedTokenizer | None
    max_pixels: int
    decodes: bool

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
                kind = error.kind if error.kind in KINDS else "other"
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
