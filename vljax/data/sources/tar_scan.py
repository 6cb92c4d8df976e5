"""What is where in one tar shard of a WebDataset.

Members that share a name up to the first dot belong to one example, whose fields are named by what
follows: `000001234.jpg`, `000001234.txt`, `000001234.json`. A shard is gone through once. Nothing
is ever unpacked: what an index does not hold cannot be read later.
"""

from __future__ import annotations

import contextlib
import io
import json
import re
import tarfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from jaxtyping import UInt32

from vljax.config import UserError
from vljax.data.records import ExampleError, SourceCounts
from vljax.data.sources.base import class_text, decoded
from vljax.data.sources.filters import Filter, exclusion_reason
from vljax.files import File, open_file

BLOCK = 512
_LARGEST = 2**32 - 1  # bytes of a member, and blocks of a shard
_DOCUMENTS = 100  # JSON members of a shard that are read to know the names of entries
_NAME = re.compile(r"((?:.*/)?[^./][^./]*)\.([^/]+)")
_PICKLES = {"pyd", "pickle", "pkl", "pth", "pt"}


@dataclass(frozen=True)
class Wanted:
    """What an index is made for."""

    image: tuple[str, ...]
    """Endings of members that are images, in order of preference."""
    members: tuple[str, ...]
    """Endings of the other members that are read."""
    filters: tuple[Filter, ...]
    """Which examples stay."""
    label: str | None
    """Column with the class, whose names are collected."""


@dataclass
class Scan:
    """The index of one shard."""

    rows: UInt32[np.ndarray, "examples columns 2"]
    """For each example, first block and size in bytes of the image and of each member wanted; zeros
    where there is none. Data never begins at block 0, which holds a header."""
    counts: SourceCounts
    """What was counted."""
    classes: set[str] = field(default_factory=set)
    """The values that occur as class."""
    columns: set[str] = field(default_factory=set)
    """What can be chosen: endings, and `json.KEY` of the first JSON members."""


@dataclass
class _Example:
    members: dict[str, tuple[int, int]] = field(default_factory=dict)
    contents: dict[str, bytes] = field(default_factory=dict)


def member_of(column: str) -> str:
    """The ending of the member that holds a column: that of `json.width` is `json`."""
    return "json" if column.startswith("json.") else column


def value_of(column: str, content: bytes | None) -> Any:
    """The value of a column, from the content of its member.

    Raises:
      ExampleError: if it is not UTF-8, or the JSON is none.
    """
    if content is None:
        return None
    if not column.startswith("json."):
        return decoded(content, column)
    value = json_of(content)
    return value.get(column.removeprefix("json.")) if isinstance(value, dict) else None


def json_of(content: bytes) -> Any:
    """What a JSON member holds. Raises ExampleError if it is not valid."""
    try:
        return json.loads(content)
    except (ValueError, RecursionError) as error:
        raise ExampleError(f"json is not valid ({error})", kind="damaged") from error


def scan(shard: File, wanted: Wanted) -> Scan:
    """Goes through a shard.

    Raises:
      UserError: if it cannot be read, is no plain tar, or ends too early; names shard and offset.
    """
    counts = SourceCounts(files=1)
    read = {member_of(condition.column) for condition in wanted.filters}
    if wanted.label:
        read.add(member_of(wanted.label))
    examples: dict[str, _Example] = {}
    columns: set[str] = set()
    with open_file(shard.path) as stream:
        for member, content in _members(shard, stream, read, counts):
            key, ending = _split(member.name)
            example = examples.setdefault(key, _Example())
            if ending in example.members:
                counts.leave_out("key occurs twice in its shard", f"{shard.name}/{member.name}")
                continue
            example.members[ending] = (member.offset_data // BLOCK, member.size)
            columns.add(ending)
            if content is not None:
                if ending == "json":
                    columns |= _keys(content)
                if ending in read:
                    example.contents[ending] = content
    result = Scan(np.zeros((0, 0, 2), np.uint32), counts, columns=columns)
    result.rows = _rows(shard, examples, wanted, result)
    return result


def _rows(
    shard: File, examples: dict[str, _Example], wanted: Wanted, result: Scan
) -> UInt32[np.ndarray, "examples columns 2"]:
    """The rows of the examples that have an image and that all filters keep."""
    rows: list[list[tuple[int, int]]] = []
    for key, example in examples.items():
        name = f"{shard.name}/{key}"
        image = next((e for e in wanted.image if e in example.members), None)
        if image is None:
            result.counts.leave_out("no image", name)
            continue

        def value(column: str, contents: dict[str, bytes] = example.contents) -> Any:
            try:
                return value_of(column, contents.get(member_of(column)))
            except ExampleError:
                return None

        reason = exclusion_reason(wanted.filters, value)
        if reason is not None:
            result.counts.leave_out(reason, name)
            continue
        rows.append([example.members.get(e, (0, 0)) for e in (image, *wanted.members)])
        result.counts.add_example(example.members)
        if wanted.label and (label := value(wanted.label)) is not None:
            result.classes.add(class_text(label))
    return np.array(rows, np.uint32).reshape(-1, 1 + len(wanted.members), 2)


def _members(
    shard: File, stream: Any, read: set[str], counts: SourceCounts
) -> Iterator[tuple[tarfile.TarInfo, bytes | None]]:
    """The members that may be used, with the content of those to read and of the first JSON."""
    documents = 0
    try:
        with tarfile.open(fileobj=stream, mode="r:") as tar:
            for member in tar:
                reason = _refused(member)
                if reason is not None:
                    if not member.isdir():
                        counts.leave_out(reason, f"{shard.name}/{member.name}")
                    continue
                ending = _split(member.name)[1]
                content = None
                documents += ending == "json"
                if ending in read or (ending == "json" and documents <= _DOCUMENTS):
                    stream.seek(member.offset_data)
                    content = stream.read(member.size)
                yield member, content
                tar.members.clear()  # type: ignore[attr-defined]  # or a shard's headers stay in memory
            end = tar.offset
        stream.seek(end)
        closing = stream.read(BLOCK)
    except tarfile.TarError as error:
        raise UserError(_damaged(shard, stream, str(error))) from error
    except OSError as error:
        raise UserError(f"{shard.path}: cannot be read ({error.strerror or error})") from error
    if len(closing) < BLOCK:
        raise UserError(
            f"{shard.path}: ends at byte {shard.size:,}, where a header or the end mark should be "
            "(truncated?); write or download it again"
        )
    if closing.strip(b"\0"):
        raise UserError(
            f"{shard.path}: no valid header at byte {end:,}; write or download it again"
        )


def _damaged(shard: File, stream: Any, message: str) -> str:
    stream.seek(0)
    head = stream.read(6)
    if head[:2] == b"\x1f\x8b" or head[:3] == b"BZh" or head == b"\xfd7zXZ\0" or head[:4] == _ZSTD:
        return f"{shard.path}: is compressed, which allows no random access; write plain tar shards"
    if "end of data" in message:
        return (
            f"{shard.path}: ends at byte {shard.size:,}, inside of a member (truncated?); "
            "write or download it again"
        )
    return f"{shard.path}: is no tar file ({message})"


_ZSTD = b"\x28\xb5\x2f\xfd"


def _refused(member: tarfile.TarInfo) -> str | None:
    """Why a member of an archive is not used, if it is not."""
    name = member.name
    if name.startswith(("/", "\\")) or ".." in name.replace("\\", "/").split("/"):
        return "path leads out of the archive"
    if member.isdir():
        return "folder"
    if member.issym() or member.islnk():
        return "link"
    if not member.isreg():
        return "device or other special file"
    if member.issparse():
        return "sparse file"
    if not _NAME.fullmatch(name):
        return "name is not KEY.FIELD"
    if _PICKLES & set(_split(name)[1].split(".")):
        return "pickle"
    if member.size > _LARGEST or member.offset_data // BLOCK > _LARGEST:
        return "larger than 4 GiB"
    return None


def _split(name: str) -> tuple[str, str]:
    """Key and field of a member, the field in lower case."""
    match = _NAME.fullmatch(name)
    if match is None:
        raise ValueError(name)
    return match[1].removeprefix("./"), match[2].lower()


_MOST_HEADERS = 8  # blocks before the data, where the name is long


def key_before(read: Callable[[int], bytes], block: int) -> str:
    """The key of the example that a member belongs to, from the headers before its data.

    Args:
      read: gives that many blocks before the data.
      block: the first one of the data.

    Raises:
      ExampleError: if there is no header.
    """
    most = min(_MOST_HEADERS, block)
    content = read(most)  # at once: where shards are remote, each reading is a request
    # A long name stands in blocks of its own before the header.
    for count in range(most, 0, -1):
        headers = io.BytesIO(content[(most - count) * BLOCK :])
        with contextlib.suppress(tarfile.TarError):
            with tarfile.open(fileobj=headers, mode="r:") as tar:
                member = tar.next()
            if member is not None and member.offset_data == count * BLOCK:
                return _split(member.name)[0]
    raise ExampleError("no header before the image", kind="damaged")


def _keys(content: bytes) -> set[str]:
    try:
        value = json.loads(content)
    except (ValueError, RecursionError):
        return set()
    return {f"json.{key}" for key in value} if isinstance(value, dict) else set()
