"""What is written of an example, whatever the target: JSON data, files, and nothing left out."""

from __future__ import annotations

import datetime
import decimal
import itertools
import math
import uuid
from dataclasses import dataclass
from typing import Any

import numpy as np

from vljax.config import UserError
from vljax.data.convert.images import Images, Picture, converted, lossless
from vljax.data.record_format import LAYOUT, describe
from vljax.data.source_base import ExampleError, Record, Records

_FIELDS = ("captions", "tags", "class")
_LAID_OUT = ("regions", "phrases", "questions")
# What a reader would take for something else than a column of the source.
_OWN = {
    "captions": "--captions",
    "tags": "--tags",
    "class": "--label",
    LAYOUT: None,
}


@dataclass(frozen=True)
class Stored:
    """An example as it is to be written.

    Attributes:
      description: JSON data: what `record_format.describe` says, and the columns of the source.
      picture: the image.
      record: the example as the source gave it.
      files: columns that are bytes.
      masks: an image file.
    """

    description: dict[str, Any]
    picture: Picture
    record: Record
    files: dict[str, bytes]
    masks: bytes | None

    @property
    def fields(self) -> list[str]:
        """What it has of captions, tags, a class, regions, phrases and questions."""
        laid_out = self.description.get(LAYOUT, {})
        own = [name for name in _FIELDS if name in self.description]
        return own + [name for name in _LAID_OUT if name in laid_out]


def stored(records: Records, index: int, images: Images, drop: frozenset[str]) -> Stored:
    """An example of a source.

    Args:
      records: opened in full.
      index: of the example.
      images: how images are written.
      drop: columns that are left out.

    Raises:
      ExampleError: if the example cannot be used.
      UserError: if a column cannot be written.
    """
    record = records[index]
    columns = {k: v for k, v in records.other_columns(index).items() if k not in drop}
    if record.regions and images.max_side is not None:
        raise UserError("--max-side: examples have boxes, in pixels; set the size of the source")
    own = _without(drop, describe(record, records.class_names))
    for name in columns:
        if name in _OWN:
            read = f"read it ({_OWN[name]}) or " if _OWN.get(name) else ""
            raise UserError(
                f"column {name!r} has the name of something else in what is written; {read}"
                f"leave it out by --drop {name}"
            )
    files = {name: value for name, value in columns.items() if isinstance(value, bytes)}
    picture = converted(record.image, images)
    plain = {name: _plain(v, name) for name, v in columns.items() if name not in files}
    masks = None if "masks" in drop else record.masks
    if masks is not None and images.encode is not None:
        masks = lossless(masks)
    return Stored({**own, **_with_size(plain, picture)}, picture, record, files, masks)


def _without(drop: frozenset[str], own: dict[str, Any]) -> dict[str, Any]:
    kept = {name: value for name, value in own.items() if name not in drop}
    laid_out = {k: v for k, v in kept.pop(LAYOUT, {}).items() if k not in drop}
    return {**kept, **({LAYOUT: laid_out} if laid_out else {})}


def _with_size(columns: dict[str, Any], picture: Picture) -> dict[str, Any]:
    """The columns with the size of the image as it is written; of another size, the original.

    Images of img2dataset have an original size already; theirs before is then `source_width`.
    """
    for name, value in (("width", picture.width), ("height", picture.height)):
        before = columns.get(name)
        if before in (value, str(value)):
            continue
        columns[name] = value
        if before is not None:
            further = (f"source_{name}_{i}" for i in itertools.count(2))
            names = itertools.chain((f"original_{name}", f"source_{name}"), further)
            columns[next(n for n in names if columns.get(n) in (None, before))] = before
    return columns


def _plain(value: Any, column: str) -> Any:
    """A value as JSON data; NaN, as which tables have missing numbers, as null."""
    if isinstance(value, str):
        try:
            value.encode()
        except UnicodeEncodeError as error:
            raise ExampleError(
                f"{column} is no text (half a character)", kind="bad_utf8"
            ) from error
        return value
    if value is None or isinstance(value, bool | int):
        return value
    if isinstance(value, float) and not math.isinf(value):
        return None if math.isnan(value) else value
    if isinstance(value, list | tuple):
        return [_plain(item, column) for item in value]
    if isinstance(value, dict):
        return {str(key): _plain(item, column) for key, item in value.items()}
    if isinstance(value, np.ndarray | np.generic):
        return _plain(value.tolist(), column)
    if isinstance(value, datetime.date | datetime.time):
        return value.isoformat()
    if isinstance(value, decimal.Decimal | uuid.UUID | datetime.timedelta):
        return str(value)
    what = "an infinite number" if isinstance(value, float) else type(value).__name__
    raise UserError(
        f"column {column!r} holds {what}, which JSON cannot; leave it out by --drop {column}"
    )
