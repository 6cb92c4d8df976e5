"""The parts of an example that a conversion writes: JSON data, the image, and columns of bytes."""

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
from vljax.data.records import ExampleError, Record, Records
from vljax.data.sources.record_format import LAYOUT, describe
from vljax.data_tools.convert.images import ImageFile, ImageOptions, as_png, convert_image
from vljax.files import encodable

_FIELDS = ("captions", "tags", "class")
_LAYOUT_FIELDS = ("regions", "phrases", "questions")
# Names that vljax itself writes -> the option that makes it read the source's column of that name.
_RESERVED = {
    "captions": "--captions",
    "tags": "--tags",
    "class": "--label",
    LAYOUT: None,
}


@dataclass(frozen=True)
class OutputExample:
    """An example as it is written to a shard."""

    description: dict[str, Any]
    """JSON data: the annotation (`record_format.describe`) and the other columns of the source."""
    picture: ImageFile
    """The image."""
    record: Record
    """The example of the source."""
    files: dict[str, bytes]
    """Columns that are bytes, which JSON cannot hold."""
    masks: bytes | None
    """`Record.masks`."""

    @property
    def fields(self) -> list[str]:
        """The names of the fields that the example has, for counting."""
        layout = self.description.get(LAYOUT, {})
        own = [name for name in _FIELDS if name in self.description]
        return own + [name for name in _LAYOUT_FIELDS if name in layout]


def output_example(
    records: Records, index: int, images: ImageOptions, drop: frozenset[str]
) -> OutputExample:
    """The example to write for an example of the source.

    Args:
      records: records opened with all columns.
      index: index of the example.
      images: how images are written.
      drop: columns to leave out.

    Raises:
      ExampleError: if the example cannot be used.
      UserError: if a column cannot be written.
    """
    record = records[index]
    others = records.other_columns(index).items()
    columns = {encodable(name): value for name, value in others if name not in drop}
    if record.regions and images.max_side is not None:
        raise UserError("--max-side: examples have boxes, in pixels; set the size of the source")
    own = _without(drop, describe(record, records.class_names))
    for name in columns:
        if name in _RESERVED:
            read = f"read it ({_RESERVED[name]}) or " if _RESERVED.get(name) else ""
            raise UserError(
                f"column {name!r} has the name of something else in what is written; {read}"
                f"leave it out by --drop {name}"
            )
    files = {name: value for name, value in columns.items() if isinstance(value, bytes)}
    picture = convert_image(record.image, images)
    plain = {name: _plain(v, name) for name, v in columns.items() if name not in files}
    masks = None if "masks" in drop else record.masks
    if masks is not None and images.encode is not None:
        masks = as_png(masks)
    return OutputExample({**own, **_with_size(plain, picture)}, picture, record, files, masks)


def _without(drop: frozenset[str], own: dict[str, Any]) -> dict[str, Any]:
    kept = {name: value for name, value in own.items() if name not in drop}
    layout = {k: v for k, v in kept.pop(LAYOUT, {}).items() if k not in drop}
    return {**kept, **({LAYOUT: layout} if layout else {})}


def _with_size(columns: dict[str, Any], picture: ImageFile) -> dict[str, Any]:
    """The columns with `width` and `height` of the image as it is written.

    A different size in the source is kept as `original_width`; or as `source_width` if there is an
    `original_width` already, as img2dataset writes it.
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
    """A value as JSON data. NaN becomes null: tables use it for missing numbers."""
    if isinstance(value, str):
        try:
            value.encode()
        except UnicodeEncodeError as error:
            raise ExampleError(
                f"{column} is not text (half a character)", kind="bad_utf8"
            ) from error
        return value
    if value is None or isinstance(value, bool | int):
        return value
    if isinstance(value, float) and not math.isinf(value):
        return None if math.isnan(value) else value
    if isinstance(value, list | tuple):
        return [_plain(item, column) for item in value]
    if isinstance(value, dict):
        return {encodable(str(key)): _plain(item, column) for key, item in value.items()}
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
