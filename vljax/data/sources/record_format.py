"""The format of one example in an ArrayRecord file that vljax writes and reads.

    4 bytes   VLX1
    4 bytes   length of the description, little endian
    ...       description: UTF-8 JSON, an object
    ...       the image file, unchanged, to the end of the record

The description has `captions` and `tags` (lists of texts) and `class` (a name or an index), each
only if the example has one, and any other columns: `width`, `height`, `url`, ... Composed scenes
have `vljax_layout`, an object with `regions`, `phrases` and `questions` (lists of objects with the
fields of `vljax.data.records.Region`, `Phrase` and `Question`) and `masks`, an image file in
base64. They have a reserved name because other data sets may have columns named `regions`.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from vljax.data.records import Annotation, ExampleError, Phrase, Question, Region

_MAGIC = b"VLX1"
_HEADER = 8

LAYOUT = "vljax_layout"
"""The entry of a description that has regions, phrases, questions and masks."""


def pack(description: dict[str, Any], image: bytes) -> bytes:
    """The record of an example.

    >>> unpack(pack({"captions": ["a dog"]}, b"(jpeg)"))
    ({'captions': ['a dog']}, b'(jpeg)')

    Args:
      description: JSON data.
      image: an encoded image file.
    """
    text = json.dumps(description, ensure_ascii=False).encode()
    return _MAGIC + len(text).to_bytes(4, "little") + text + image


def unpack(record: bytes) -> tuple[dict[str, Any], bytes]:
    """The description and the image of a record. Raises ExampleError if it is not valid."""
    if record[:4] != _MAGIC or len(record) < _HEADER:
        raise ExampleError("record is not in vljax's format", kind="damaged")
    end = _HEADER + int.from_bytes(record[4:_HEADER], "little")
    try:
        description = json.loads(record[_HEADER:end])
    except (ValueError, RecursionError) as error:
        raise ExampleError(
            f"description of the record is damaged ({error})", kind="damaged"
        ) from error
    if end > len(record) or not isinstance(description, dict):
        raise ExampleError("description of the record is damaged", kind="damaged")
    return description, record[end:]


def describe(annotation: Annotation, class_names: tuple[str, ...]) -> dict[str, Any]:
    """The entries of a description for an annotation; entries without a value are omitted."""
    label = annotation.label
    entries: dict[str, Any] = {
        "captions": list(annotation.captions),
        "tags": list(annotation.tags),
        "class": class_names[label] if class_names and label is not None else label,
        LAYOUT: _present(
            {
                "regions": [asdict(region) for region in annotation.regions],
                "phrases": [asdict(phrase) for phrase in annotation.phrases],
                "questions": [_described(question) for question in annotation.questions],
                "group": annotation.group,
            }
        ),
    }
    return _present(entries)


def _present(entries: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in entries.items() if value not in (None, [], {})}


def layout(description: Mapping[str, Any]) -> dict[str, Any]:
    """The fields `regions`, `phrases`, `questions` and `group` of an annotation.

    Raises:
      ExampleError: if they are not valid.
    """
    entries = description.get(LAYOUT, {})
    try:
        return {
            "regions": tuple(
                Region(**{**region, "box": tuple(region["box"])})
                for region in entries.get("regions", ())
            ),
            "phrases": tuple(
                Phrase(**{**phrase, "regions": tuple(phrase["regions"])})
                for phrase in entries.get("phrases", ())
            ),
            "questions": tuple(_question(entry) for entry in entries.get("questions", ())),
            "group": entries.get("group"),
        }
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ExampleError(
            f"{LAYOUT} of the record is damaged ({error})", kind="damaged"
        ) from error


def _described(question: Question) -> dict[str, Any]:
    entry = asdict(question)
    if not question.answers:
        del entry["answers"]
    return entry


def _question(entry: Mapping[str, Any]) -> Question:
    answers = tuple((answer, float(weight)) for answer, weight in entry.get("answers", ()))
    return Question(**{**entry, "answers": answers})


def with_masks(description: dict[str, Any], masks: bytes) -> dict[str, Any]:
    """The description with masks (`Record.masks`) added."""
    entry = base64.b64encode(masks).decode()
    return {**description, LAYOUT: {**description.get(LAYOUT, {}), "masks": entry}}


def masks_of(description: Mapping[str, Any]) -> bytes | None:
    """The masks in a description; None if there are none. Raises ExampleError if not valid."""
    try:
        entry = description.get(LAYOUT, {}).get("masks")
        return None if entry is None else base64.b64decode(entry, validate=True)
    except (AttributeError, TypeError, ValueError) as error:
        raise ExampleError(f"masks of the record are damaged ({error})", kind="damaged") from error
