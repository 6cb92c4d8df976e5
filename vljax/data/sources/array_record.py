"""ArrayRecord files in vljax's own record format (`record_format.py`).

`ArrayRecord` is the source, `ArrayRecordRecords` its examples, and `RecordFiles` gives the raw
records of several files by number; `tfds.py` uses it too.
"""

from __future__ import annotations

import functools
import hashlib
from array import array
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from vljax.config import UserError
from vljax.data.records import Annotation, ExampleError, SourceCounts
from vljax.data.sources.base import (
    ColumnRecords,
    FileSource,
    LastRead,
    class_names_of,
    class_texts,
)
from vljax.data.sources.filters import exclusion_reason
from vljax.data.sources.record_format import LAYOUT, layout, masks_of, unpack
from vljax.files import File, error_reason, join, list_folder, parent, read_names, read_range

CLASSES = "classes.txt"
# Number of records that are read to find the columns; more, if a chosen one is not among them.
_FIRST_RECORDS = 100


@dataclass(frozen=True)
class ArrayRecord(FileSource, name="array_record"):
    """Examples in ArrayRecord files; a folder stands for the `.array_record` files in it.

    Columns are the entries of the description of a record (`vljax.data.sources.record_format`).
    Class names are in `classes.txt` beside the files. With filters, all records are read each time
    the source is opened.

    >>> from array_record.python.array_record_module import ArrayRecordWriter
    >>> from vljax.data.sources.record_format import pack
    >>> writer = ArrayRecordWriter("pets.array_record", "group_size:1")
    >>> writer.write(pack({"captions": ["a dog"], "tags": ["brown"]}, b"(jpeg)"))
    >>> writer.close()
    >>> records = ArrayRecord("pets.array_record").open()
    >>> records[0].captions, records[0].tags, records[0].image
    (('a dog',), ('brown',), b'(jpeg)')
    """

    captions: tuple[str, ...] = ("captions",)
    tags: str | None = "tags"
    label: str | None = "class"

    def open(self) -> ArrayRecordRecords:
        return ArrayRecordRecords(self, self.files("ArrayRecord files", ".array_record"))


class ArrayRecordRecords(ColumnRecords):
    """The records that pass all filters."""

    def __init__(self, source: ArrayRecord, files: list[File]):
        self._records = RecordFiles(files)
        self._last = LastRead()
        self._kept: np.ndarray | None = None
        self.counts = SourceCounts(files=len(files))
        first = self._first_descriptions()
        if first:
            names = {name for description in first for name in description}
            known = {"captions", "tags", "class"} | names
            count = len(self._records)
            source.check_columns(source.late_columns(known, count, self._description))
        if source.filters:
            self._kept = self._filtered(source)
        else:
            self.counts.examples = len(self._records)
        super().__init__(source, self._class_names(source, first))
        self.identity = source.identity(self._records.summary(), self.class_names)
        self.counts.log(source.full_name)

    def _first_descriptions(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = []
        first_error: ExampleError | None = None
        for i in range(min(_FIRST_RECORDS, len(self._records))):
            try:
                found.append(self._description(i))
            except ExampleError as error:
                first_error = first_error or error
        if first_error is not None and not found:
            raise UserError(
                f"{self._records.files[0].path}: {first_error}; read data sets of TFDS by "
                "--data.source tfds, and write others by vljax.data.sources.record_format.pack"
            ) from first_error
        return found

    def _class_names(self, source: ArrayRecord, first: list[dict[str, Any]]) -> tuple[str, ...]:
        if source.label is None or source.classes is not None:
            return ()
        beside = join(parent(self._records.files[0].path), CLASSES)
        if CLASSES in list_folder(parent(beside)):
            return read_names(beside)
        if class_names_of(class_texts(d.get(source.label) for d in first)):
            raise UserError(
                f"{beside}: not there, but classes have names; set data.source.classes to a file "
                "with one name per line, or data.source.label to none"
            )
        return ()

    def _filtered(self, source: ArrayRecord) -> np.ndarray:
        counts = self.counts
        kept = array("q")
        for number in range(len(self._records)):
            try:
                description = self._description(number)
            except ExampleError as error:
                counts.leave_out(str(error), f"record {number}")
                continue
            reason = exclusion_reason(source.filters, description.get)
            if reason is not None:
                counts.leave_out(reason, f"record {number}")
                continue
            kept.append(number)
            counts.add_example(key for key, value in description.items() if value)
        return np.frombuffer(kept, np.int64)

    def __len__(self) -> int:
        return len(self._records) if self._kept is None else len(self._kept)

    def image(self, index: int) -> bytes:
        return self._unpacked(self._number(index))[1]

    def values(self, index: int) -> Callable[[str], Any]:
        return self._description(self._number(index)).get

    def masks(self, index: int) -> bytes | None:
        return masks_of(self._description(self._number(index)))

    def other_columns(self, index: int) -> dict[str, Any]:
        description = self._description(self._number(index))
        restorable = {*self.source.restorable_columns, LAYOUT}
        return {name: value for name, value in description.items() if name not in restorable}

    def _read_annotation(self, index: int) -> Annotation:
        found = layout(self._description(self._number(index)))
        stored = {name: value for name, value in found.items() if value}
        return replace(super()._read_annotation(index), **stored)

    def _number(self, index: int) -> int:
        return index if self._kept is None else int(self._kept[index])

    def _description(self, number: int) -> dict[str, Any]:
        return self._unpacked(number)[0]

    def _unpacked(self, number: int) -> tuple[dict[str, Any], bytes]:
        def read() -> tuple[dict[str, Any], bytes]:
            try:
                record = self._records[number]
            except (OSError, RuntimeError, ValueError) as error:
                raise ExampleError(f"record cannot be read ({error})", kind="unreadable") from error
            return unpack(record)

        unpacked: tuple[dict[str, Any], bytes] = self._last.get(number, read)
        return unpacked


# --- The records of several files -----------------------------------------------------------------

# The end of a file holds the offsets of all its chunks. A hash of the end, together with the size,
# changes when the content changes.
_TAIL_BYTES = 2**16


class RecordFiles:
    """The records of several ArrayRecord files by number. Safe to use from threads and to pickle.

    Args:
      files: the files in order.

    Raises:
      UserError: if one of them is not an ArrayRecord file.
    """

    def __init__(self, files: list[File]):
        self.files = files
        self._counts = [_count(file) for file in files]

    def __len__(self) -> int:
        return sum(self._counts)

    def __getitem__(self, index: int) -> bytes:
        """A record. Raises OSError, RuntimeError or ValueError if it cannot be read."""
        return bytes(self._source[index])

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "_source"}

    @functools.cached_property
    def _source(self) -> Any:
        from array_record.python.array_record_data_source import ArrayRecordDataSource

        return ArrayRecordDataSource([file.path for file in self.files])

    def summary(self) -> list[Any]:
        """Names, sizes and numbers of records of the files, and hashes of their ends."""
        return [
            [file.name, file.size, count, _tail(file).hex()]
            for file, count in zip(self.files, self._counts, strict=True)
        ]


def _count(file: File) -> int:
    from array_record.python.array_record_module import ArrayRecordReader

    try:
        reader = ArrayRecordReader(file.path)
        count: int = reader.num_records()
        reader.close()
    except (OSError, RuntimeError, ValueError) as error:
        first = next(iter(str(error).splitlines()), "")
        raise UserError(f"{file.path}: not an intact ArrayRecord file ({first})") from error
    return count


def _tail(file: File) -> bytes:
    size = min(file.size, _TAIL_BYTES)
    try:
        content = read_range(file.path, file.stamp, file.size - size, size)
    except OSError as error:
        raise UserError(f"{file.path}: cannot be read ({error_reason(error)})") from error
    return hashlib.sha256(content).digest()
