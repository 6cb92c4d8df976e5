"""What is written of an example, and the shards that it is written to."""

from __future__ import annotations

import abc
import datetime
import decimal
import io
import itertools
import json
import math
import re
import tarfile
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, get_args

import numpy as np

from vljax.config import UserError
from vljax.data.records import ExampleError, Record, Records
from vljax.data.sources.base import decoded
from vljax.data.sources.record_format import LAYOUT, describe, pack, with_masks
from vljax.data_tools.convert.images import Images, Picture, converted, lossless

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
    """An example as it is to be written."""

    description: dict[str, Any]
    """JSON data: what `record_format.describe` says, and the columns of the source."""
    picture: Picture
    """The image."""
    record: Record
    """The example as the source gave it."""
    files: dict[str, bytes]
    """Columns that are bytes."""
    masks: bytes | None
    """An image file."""

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


# --- What examples are written to: a tar shard or an ArrayRecord file -----------------------------

Target = Literal["webdataset", "array_record"]
TARGETS: tuple[Target, ...] = get_args(Target)
ENDINGS: dict[Target, str] = {"webdataset": ".tar", "array_record": ".array_record"}

_MEMBER = re.compile(r"[a-z0-9_-][a-z0-9_.-]*")
_PNG = b"\x89PNG"
_PICKLES = {"pyd", "pickle", "pkl", "pth", "pt"}
# What the webdataset package decodes as text or as a number.
_TEXTS = {"txt", "text", "transcript", "cls", "cls2", "class", "count", "index", "inx", "id"}


Packed = dict[str, bytes]
"""An example as a target has it: members of a tar file by name, or one record under its key."""


def packed(target: Target, key: str, example: Stored) -> Packed:
    """An example as it is written.

    Args:
      target: of the shards.
      key: tells it from all others of the set.
      example: what to write.

    Raises:
      ExampleError: if the example cannot be used.
      UserError: if the target cannot hold a column.
    """
    if target == "array_record":
        return {key: _record(example)}
    return {f"{key}.{ending}": content for ending, content in _members(key, example).items()}


def _members(key: str, example: Stored) -> dict[str, bytes]:
    """`jpg`, `txt` and `json` as img2dataset writes them, `cls`, and each column of bytes."""
    about, picture = example.description, example.picture
    caption = next((text for text in about.get("captions", ()) if text.strip()), None)
    description = {"key": key, **({} if caption is None else {"caption": caption}), **about}
    members = {picture.ending: picture.content}
    if caption is not None and "txt" not in example.files:
        members["txt"] = caption.encode()
    members["json"] = json.dumps(description, ensure_ascii=False).encode()
    if "class" in about and "cls" not in example.files:
        members["cls"] = str(example.record.label).encode()
    if example.masks is not None:
        members[f"masks.{'png' if example.masks.startswith(_PNG) else 'bmp'}"] = example.masks
    for name, content in example.files.items():
        if name in members or not _MEMBER.fullmatch(name) or _PICKLES & set(name.split(".")):
            why = "is another member" if name in members else "is no name of a member"
            raise UserError(
                f"column {name!r} is bytes, and KEY.{name} {why} of a shard; leave it out by "
                f"--drop {name}"
            )
        members[name] = content
    return members


def _record(example: Stored) -> bytes:
    """A record as `vljax.data.sources.record_format` describes it."""
    texts = {}
    for name, content in example.files.items():
        if name not in _TEXTS:
            raise UserError(
                f"column {name!r} is bytes, which array_record cannot hold; convert --to "
                f"webdataset, or leave it out by --drop {name}"
            )
        texts[name] = decoded(content, name)
    description = {**example.description, **texts}
    if example.masks is not None:
        description = with_masks(description, example.masks)
    return pack(description, example.picture.content)


class Writer(abc.ABC):
    """A shard that examples are added to."""

    @abc.abstractmethod
    def add(self, example: Packed) -> None:
        """Adds an example after those before. Raises OSError or UserError if there is no room."""


@contextmanager
def writing(target: Target, path: str) -> Iterator[Writer]:
    """A shard at a local path, complete at the end of the context. Raises OSError or UserError."""
    if target == "webdataset":
        with tarfile.open(path, "w") as tar:
            yield TarShard(tar)
        return
    from array_record.python.array_record_module import ArrayRecordWriter

    # One example a group, so that reading one at random reads no other.
    file = _attempted(path, lambda: ArrayRecordWriter(path, "group_size:1"))
    shard = RecordShard(path, file)
    try:
        yield shard
    finally:
        _attempted(path, file.close)
    _check_records(path, shard.count)


class TarShard(Writer):
    """A tar file in which nothing depends on the time, the machine or the user."""

    def __init__(self, tar: tarfile.TarFile):
        self._tar = tar

    def add(self, example: Packed) -> None:
        for name, content in example.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            self._tar.addfile(member, io.BytesIO(content))
        self._tar.members.clear()  # type: ignore[attr-defined]  # or all headers stay in memory


class RecordShard(Writer):
    """An ArrayRecord file.

    Attributes:
      count: of the records so far.
    """

    def __init__(self, path: str, file: Any):
        self._path, self._file = path, file
        self.count = 0

    def add(self, example: Packed) -> None:
        for record in example.values():
            _attempted(self._path, partial(self._file.write, record))
            self.count += 1


def _attempted(path: str, action: Callable[[], Any]) -> Any:
    """Calls the library, whose errors tell of full disks and the like."""
    try:
        return action()
    except (RuntimeError, ValueError) as error:
        first = next(iter(str(error).splitlines()), "")
        raise UserError(f"{path}: cannot be written ({first})") from error


def _check_records(path: str, count: int) -> None:
    """The library reports not every write that failed."""
    from array_record.python.array_record_module import ArrayRecordReader

    def read() -> int:
        reader = ArrayRecordReader(path)
        there: int = reader.num_records()
        reader.close()
        return there

    there = _attempted(path, read)
    if there != count:
        raise UserError(f"{path}: cannot be written ({there} of {count} records arrived)")
