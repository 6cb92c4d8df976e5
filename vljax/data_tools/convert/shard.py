"""One shard of a conversion, from the examples of the source to the finished file."""

from __future__ import annotations

import abc
import io
import json
import os
import re
import tarfile
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from itertools import chain
from typing import Any

from vljax.config import UserError
from vljax.data.records import ExampleError, Records, exceeds_limit
from vljax.data.sources.base import decoded
from vljax.data.sources.record_format import pack, with_masks
from vljax.data_tools.convert.example import OutputExample, output_example
from vljax.data_tools.convert.job import REJECTED, Job, Rejected, Report, Target, write_report
from vljax.files import atomic_file

# Number of examples of a shard to read before its rejected share alone may stop the conversion.
_MIN_SEEN = 1000
# Columns that may identify an example for people, in order of preference.
_IDS = ("__key__", "key", "path", "image", "filename", "id", "url")


def convert_shard(
    job: Job,
    records: Records,
    shard: int,
    max_rejected_share: float,
    after_each: Callable[[], None],
) -> Report:
    """Writes a shard and its report.

    Args:
      job: the conversion.
      records: the source, opened with all columns.
      shard: number of the shard.
      max_rejected_share: largest share of examples that may be rejected.
      after_each: called after each example of the source; may raise to stop.

    Returns:
      The report.

    Raises:
      UserError: if too many examples are rejected, or the target cannot hold a column.
      OSError: if the shard cannot be written.
    """
    rejected: list[Rejected] = []
    examples = _usable(job, records, shard, max_rejected_share, after_each, rejected)
    first = next(examples, None)
    if first is None:
        report = Report(shard, 0, 0, {}, tuple(rejected))
        write_report(job, report)
        return report
    count, fields = 0, Counter[str]()
    with atomic_file(job.path(shard)) as local_path:
        with open_shard(job.plan.to, local_path) as writer:
            for entry, names in chain([first], examples):
                writer.add(entry)
                fields.update(names)
                count += 1
        size = os.path.getsize(local_path)
        report = Report(shard, count, size, dict(sorted(fields.items())), tuple(rejected))
        write_report(job, report)
    return report


def _usable(
    job: Job,
    records: Records,
    shard: int,
    max_rejected_share: float,
    after_each: Callable[[], None],
    rejected: list[Rejected],
) -> Iterator[tuple[ShardEntry, list[str]]]:
    """The usable examples with the names of their fields; the others are added to `rejected`."""
    plan = job.plan
    for seen, index in enumerate(job.indices(shard), 1):
        try:
            example = output_example(records, index, plan.images, frozenset(plan.drop))
            yield shard_entry(plan.to, job.key(index), example), example.fields
        except ExampleError as error:
            name = _id(records, index)
            rejected.append(Rejected(index, name, error.kind, str(error)))
        except UserError as error:
            raise UserError(f"{plan.source}, example {index}: {error}") from error
        if seen >= _MIN_SEEN and exceeds_limit(len(rejected), seen, max_rejected_share):
            raise UserError(limit_message(rejected, seen, max_rejected_share))
        after_each()


def limit_message(rejected: list[Rejected], seen: int, limit: float) -> str:
    """The error message for too many rejected examples."""
    first = rejected[0]
    name = f" ({first.id})" if first.id else ""
    return (
        f"--max-rejected-share: {len(rejected):,} of {seen:,} examples cannot be used, more than "
        f"{limit:.3g} of them; such as example {first.index}{name}: {first.reason}; mend the data "
        f"or raise the limit ({REJECTED} in the folder lists those of the shards that are done)"
    )


def _id(records: Records, index: int) -> str:
    """Key, path or address of an example in the source; "" if it has none."""
    try:
        columns = records.other_columns(index)
    except ExampleError:
        return ""
    return next((str(columns[name]) for name in _IDS if isinstance(columns.get(name), str)), "")


# --- The bytes of an example in a shard -----------------------------------------------------------

_MEMBER = re.compile(r"[a-z0-9_-][a-z0-9_.-]*")
_PNG = b"\x89PNG"
_PICKLES = {"pyd", "pickle", "pkl", "pth", "pt"}
# Members that the webdataset package decodes as text or as a number: their bytes are text.
_TEXTS = {"txt", "text", "transcript", "cls", "cls2", "class", "count", "index", "inx", "id"}


ShardEntry = dict[str, bytes]
"""An example in a shard: the members of a tar file by name, or one record under its key."""


def shard_entry(target: Target, key: str, example: OutputExample) -> ShardEntry:
    """The bytes of an example in a shard.

    Args:
      target: format of the shard.
      key: key of the example, unique in the data set.
      example: the example to write.

    Raises:
      ExampleError: if the example cannot be used.
      UserError: if the target cannot hold a column.
    """
    if target == "array_record":
        return {key: _record(example)}
    return {f"{key}.{ending}": content for ending, content in _members(key, example).items()}


def _members(key: str, example: OutputExample) -> dict[str, bytes]:
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
            why = "is another member" if name in members else "is not a valid name of a member"
            raise UserError(
                f"column {name!r} is bytes, and KEY.{name} {why} of a shard; leave it out by "
                f"--drop {name}"
            )
        members[name] = content
    return members


def _record(example: OutputExample) -> bytes:
    """A record in the format of `vljax.data.sources.record_format`."""
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


# --- Writers of shard files -----------------------------------------------------------------------


class Writer(abc.ABC):
    """A shard file that is being written."""

    @abc.abstractmethod
    def add(self, example: ShardEntry) -> None:
        """Appends an example. Raises OSError or UserError if it cannot be written."""


@contextmanager
def open_shard(target: Target, path: str) -> Iterator[Writer]:
    """A writer of a shard at a local path; the file is complete at the end of the context.

    Raises:
      OSError, UserError: if it cannot be written.
    """
    if target == "webdataset":
        with tarfile.open(path, "w") as tar:
            yield TarShard(tar)
        return
    from array_record.python.array_record_module import ArrayRecordWriter

    # One record per group, so that reading a random record reads no others.
    file = _attempted(path, lambda: ArrayRecordWriter(path, "group_size:1"))
    shard = RecordShard(path, file)
    try:
        yield shard
    finally:
        _attempted(path, file.close)
    _check_records(path, shard.count)


class TarShard(Writer):
    """A tar file whose headers do not depend on the time, the machine or the user."""

    def __init__(self, tar: tarfile.TarFile):
        self._tar = tar

    def add(self, example: ShardEntry) -> None:
        for name, content in example.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            self._tar.addfile(member, io.BytesIO(content))
        # tarfile keeps the header of every member; clear it to keep memory constant.
        self._tar.members.clear()  # type: ignore[attr-defined]


class RecordShard(Writer):
    """An ArrayRecord file.

    Attributes:
      count: number of records written.
    """

    def __init__(self, path: str, file: Any):
        self._path, self._file = path, file
        self.count = 0

    def add(self, example: ShardEntry) -> None:
        for record in example.values():
            _attempted(self._path, partial(self._file.write, record))
            self.count += 1


def _attempted(path: str, action: Callable[[], Any]) -> Any:
    """Calls a library function and converts its errors, such as a full disk, to UserError."""
    try:
        return action()
    except (RuntimeError, ValueError) as error:
        first = next(iter(str(error).splitlines()), "")
        raise UserError(f"{path}: cannot be written ({first})") from error


def _check_records(path: str, count: int) -> None:
    """Checks the number of records in a file: the library does not report every failed write."""
    from array_record.python.array_record_module import ArrayRecordReader

    def read() -> int:
        reader = ArrayRecordReader(path)
        there: int = reader.num_records()
        reader.close()
        return there

    there = _attempted(path, read)
    if there != count:
        raise UserError(f"{path}: cannot be written ({there} of {count} records arrived)")
