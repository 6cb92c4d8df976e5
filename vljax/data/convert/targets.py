"""What examples are written to: a tar shard or an ArrayRecord file."""

from __future__ import annotations

import abc
import io
import json
import re
import tarfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, Literal, get_args

from vljax.config import UserError
from vljax.data.columns import decoded
from vljax.data.convert.stored import Stored
from vljax.data.record_format import pack, with_masks

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
    """A record as `vljax.data.record_format` describes it."""
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
