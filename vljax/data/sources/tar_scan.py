"""Scans one tar shard of a WebDataset: the offset and size of every member.

Members with the same name up to the first dot (the key) form one example; the rest of the name is
the ending: `000001234.jpg`, `000001234.txt`, `000001234.json`. A shard is read once, from start to
end, and never unpacked. Unsafe members (links, devices, paths out of the archive, pickles) get no
entry in the index, so that nothing can read them later.
"""

from __future__ import annotations

import contextlib
import io
import re
import tarfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from jaxtyping import UInt32

from vljax.config import UserError
from vljax.data.records import ExampleError, SourceCounts
from vljax.data.sources.base import class_texts, decoded
from vljax.data.sources.filters import Filter, exclusion_reason
from vljax.files import File, error_reason, open_file, parse_json

BLOCK = 512
_UINT32_MAX = 2**32 - 1  # limit of the size of a member in bytes, and of a shard in blocks
# JSON members per shard that are read to find the names of their entries. Reading all of them would
# take too long; `FileSource.late_columns` looks for a chosen one that is not among these.
_JSON_MEMBERS = 100
_NAME = re.compile(r"((?:.*/)?[^./][^./]*)\.([^/]+)")
_PICKLES = {"pyd", "pickle", "pkl", "pth", "pt"}


@dataclass(frozen=True)
class IndexOptions:
    """The fields of the source that decide what is in an index."""

    image: tuple[str, ...]
    """Endings of images, in order of preference."""
    members: tuple[str, ...]
    """Endings of the other members to index."""
    filters: tuple[Filter, ...]
    """Filters that an example must pass."""
    label: str | None
    """Column with the class; the names in it are collected."""


@dataclass
class Scan:
    """The index of one shard."""

    rows: UInt32[np.ndarray, "examples columns 2"]
    """For each example, the first block and the size in bytes of the image and of each member in
    `IndexOptions.members`; zeros for a missing member. Block 0 is a header, never data."""
    counts: SourceCounts
    """Numbers of examples and fields."""
    classes: set[str] = field(default_factory=set)
    """The values of the label column."""
    columns: set[str] = field(default_factory=set)
    """The columns that a source can name: endings, and `json.NAME` from the first JSON members."""


@dataclass
class _Example:
    members: dict[str, tuple[int, int]] = field(default_factory=dict)
    """First block and size, by ending."""
    contents: dict[str, bytes] = field(default_factory=dict)
    """Contents of the members that filters or the label need, by ending."""


def member_of(column: str) -> str:
    """The ending of the member that holds a column.

    >>> member_of("json.width"), member_of("txt")
    ('json', 'txt')
    """
    return "json" if column.startswith("json.") else column


def value_of(column: str, content: bytes | None) -> Any:
    """The value of a column, from the content of its member; None for a missing member.

    >>> value_of("json.width", b'{"width": 24}')
    24

    Raises:
      ExampleError: if it is not UTF-8, or not valid JSON.
    """
    if content is None:
        return None
    if not column.startswith("json."):
        return decoded(content, column)
    value = json_member(content)
    return value.get(column.removeprefix("json.")) if isinstance(value, dict) else None


def json_member(content: bytes) -> Any:
    """The value of a JSON member. Raises ExampleError if it is not valid."""
    try:
        return parse_json(content)
    except ValueError as error:
        raise ExampleError(f"json is not valid ({error})", kind="damaged") from error


def scan(shard: File, options: IndexOptions) -> Scan:
    """Reads a shard from start to end and returns the location of its members.

    Raises:
      UserError: if it cannot be read, is not a plain tar file, or ends too early; the message has
        shard and offset.
    """
    counts = SourceCounts(files=1)
    read = {member_of(condition.column) for condition in options.filters}
    if options.label:
        read.add(member_of(options.label))
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
                    columns |= columns_in(content)
                if ending in read:
                    example.contents[ending] = content
    result = Scan(np.zeros((0, 0, 2), np.uint32), counts, columns=columns)
    result.rows = _rows(shard, examples, options, result)
    return result


def _rows(
    shard: File, examples: dict[str, _Example], options: IndexOptions, result: Scan
) -> UInt32[np.ndarray, "examples columns 2"]:
    """The rows of the examples that have an image and pass all filters."""
    rows: list[list[tuple[int, int]]] = []
    for key, example in examples.items():
        name = f"{shard.name}/{key}"
        image = next((e for e in options.image if e in example.members), None)
        if image is None:
            result.counts.leave_out("no image", name)
            continue

        def value(column: str, contents: dict[str, bytes] = example.contents) -> Any:
            try:
                return value_of(column, contents.get(member_of(column)))
            except ExampleError:
                return None

        reason = exclusion_reason(options.filters, value)
        if reason is not None:
            result.counts.leave_out(reason, name)
            continue
        rows.append([example.members.get(e, (0, 0)) for e in (image, *options.members)])
        result.counts.add_example(example.members)
        if options.label:
            result.classes.update(text.strip() for text in class_texts([value(options.label)]))
    return np.array(rows, np.uint32).reshape(-1, 1 + len(options.members), 2)


def _members(
    shard: File, stream: Any, read: set[str], counts: SourceCounts
) -> Iterator[tuple[tarfile.TarInfo, bytes | None]]:
    """The accepted members, with the contents of those in `read` and of the first JSON members."""
    json_members = 0
    start: int | None = 0
    try:
        while start is not None:
            stream.seek(start)
            with tarfile.open(fileobj=stream, mode="r:") as tar:
                for member in tar:
                    if member.size < 0:  # the next header would be an earlier one, for ever
                        raise UserError(
                            f"{shard.path}: the header at byte {member.offset:,} has a negative "
                            "size; write or download it again"
                        )
                    reason = _refused(member)
                    if reason is not None:
                        if not member.isdir():
                            counts.leave_out(reason, f"{shard.name}/{member.name}")
                        continue
                    ending = _split(member.name)[1]
                    content = None
                    json_members += ending == "json"
                    if ending in read or (ending == "json" and json_members <= _JSON_MEMBERS):
                        stream.seek(member.offset_data)
                        content = stream.read(member.size)
                    yield member, content
                    # tarfile keeps the header of every member; clear it to keep memory constant.
                    tar.members.clear()  # type: ignore[attr-defined]
                end = tar.offset
            _check_end(shard, stream, end)
            start = _next_archive(shard, stream, end, counts)
    # ValueError: a header of a header, such as a long name, has a negative size.
    except (tarfile.TarError, ValueError) as error:
        raise UserError(_damaged(shard, stream, str(error))) from error
    except OSError as error:
        raise UserError(f"{shard.path}: cannot be read ({error_reason(error)})") from error


def _check_end(shard: File, stream: Any, end: int) -> None:
    # tarfile treats a missing end mark and an invalid header as the end of the archive.
    stream.seek(end)
    closing = stream.read(BLOCK)
    if len(closing) < BLOCK:
        raise UserError(
            f"{shard.path}: ends at byte {shard.size:,}, where a header or the end mark should be "
            "(truncated?); write or download it again"
        )
    if closing.strip(b"\0"):
        raise UserError(
            f"{shard.path}: no valid header at byte {end:,}; write or download it again"
        )


_CHUNK = 2048 * BLOCK


def _next_archive(shard: File, stream: Any, end: int, counts: SourceCounts) -> int | None:
    """The offset of the next header after an end mark; None if there is none.

    An archive ends with zeros. Members follow them if archives were joined, or if a part of the
    file was never written. Bytes that are neither zeros nor a member are counted as left out.
    """
    stream.seek(end)
    position, header = end, None
    others: list[int] = []  # offsets of the first and the last block of other bytes
    while header is None and (chunk := stream.read(_CHUNK)):
        blocks = range(0, len(chunk), BLOCK) if chunk.strip(b"\0") else ()
        for offset in blocks:
            block = chunk[offset : offset + BLOCK]
            if not block.strip(b"\0"):
                continue
            if _is_header(block):
                header = position + offset
                break
            others = [*others[:1], position + offset]
        position += len(chunk)
    if others:
        size = min(others[-1] + BLOCK, shard.size) - others[0]
        name = f"{shard.name}: {size:,} bytes from byte {others[0]:,}"
        counts.leave_out("bytes after an end mark that are not members", name)
    return header


def _is_header(block: bytes) -> bool:
    try:
        tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
    except tarfile.TarError:
        return False
    return True


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
    return f"{shard.path}: is not a tar file ({message})"


_ZSTD = b"\x28\xb5\x2f\xfd"


def _refused(member: tarfile.TarInfo) -> str | None:
    """Why a member is not indexed; None if it is."""
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
    if member.size > _UINT32_MAX or member.offset_data // BLOCK > _UINT32_MAX:
        return "larger than 4 GiB"
    return None


def _split(name: str) -> tuple[str, str]:
    """Key and ending of a member, the ending in lower case."""
    match = _NAME.fullmatch(name)
    if match is None:
        raise ValueError(name)
    return match[1].removeprefix("./"), match[2].lower()


_MAX_HEADER_BLOCKS = 8  # a long name is stored in extra blocks before the header


def key_before(read: Callable[[int], bytes], block: int) -> str:
    """The key of the example that a member belongs to, from the headers before its data.

    Args:
      read: returns the given number of blocks before the data.
      block: the first block of the data.

    Raises:
      ExampleError: if there is no header.
    """
    most = min(_MAX_HEADER_BLOCKS, block)
    content = read(most)  # once, since each call is a request if the shard is remote
    for count in range(most, 0, -1):
        headers = io.BytesIO(content[(most - count) * BLOCK :])
        with contextlib.suppress(tarfile.TarError, ValueError):
            with tarfile.open(fileobj=headers, mode="r:") as tar:
                member = tar.next()
            if member is not None and member.offset_data == count * BLOCK:
                return _split(member.name)[0]
    raise ExampleError("no header before the image", kind="damaged")


def columns_in(content: bytes) -> set[str]:
    """The columns in a JSON member: `json.NAME` for each entry; none if it is not an object."""
    try:
        value = json_member(content)
    except ExampleError:
        return set()
    return {f"json.{key}" for key in value} if isinstance(value, dict) else set()
