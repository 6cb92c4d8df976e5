"""Tables in text files, a line a row, beside image files."""

from __future__ import annotations

import csv
import hashlib
import io
import os
from array import array
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from vljax.config import UserError
from vljax.data.records import Progress, SourceCounts
from vljax.data.sources.base import (
    ColumnRecords,
    FileSource,
    class_names_of,
    decoded,
    image_file,
)
from vljax.data.sources.filters import exclusion_reason
from vljax.files import File, read_file


@dataclass(frozen=True)
class Csv(FileSource, name="csv"):
    """Images listed in a table whose columns are separated by commas.

    The texts of the columns that are used stay in memory.
    """

    captions: tuple[str, ...] = ("caption",)
    image: str = "image"
    """Column with the path of the image, relative to the folder of the table."""
    delimiter: str = ","
    """Between columns."""
    header: tuple[str, ...] = ()
    """The names of the columns, for files whose first line does not hold them."""

    def problems(self) -> Iterator[tuple[str, str]]:
        if len(self.delimiter) != 1:
            yield "delimiter", f"must be one character, got {self.delimiter!r}"

    def open(self) -> CsvRecords:
        return CsvRecords(self, self.files("a table", ".csv", ".tsv"))

    def open_with_all_columns(self, workers: int | None, progress: Progress) -> CsvRecords:
        return CsvRecords(self, self.files("a table", ".csv", ".tsv"), in_full=True)


@dataclass(frozen=True)
class Tsv(Csv, name="tsv"):
    """Images listed in a table whose columns are separated by tabs."""

    delimiter: str = "\t"
    """Between columns."""


class CsvRecords(ColumnRecords):
    """The rows of tables; images are read when asked for."""

    def __init__(self, source: Csv, files: list[File], *, in_full: bool = False):
        self._columns = tuple(dict.fromkeys((source.image, *source.annotation_columns)))
        self._values = {column: Strings() for column in self._columns}
        self._folders = [os.path.dirname(file.path) for file in files]
        self._counts: list[int] = []
        self._image = source.image
        self._in_full, self._covered = in_full, source.covered
        self.counts = SourceCounts(files=len(files))
        digests = []
        for file in files:
            content = _content(file)
            digests.append(hashlib.sha256(content).hexdigest())
            self._add(source, file, content)
            self._counts.append(len(self))
        label = self._values[source.label] if source.label else Strings()
        names = (label[i].decode(errors="replace").strip() for i in range(len(label)))
        super().__init__(source, class_names_of(names))
        self.identity = source.identity(source.image, source.delimiter, source.header, digests)
        self.counts.log(source.full_name)

    def _add(self, source: Csv, file: File, content: bytes) -> None:
        counts = self.counts
        for number, row in _rows(source, file, content):
            reason = exclusion_reason(source.filters, row.get)
            if reason is not None:
                counts.leave_out(reason, f"{file.name}:{number}")
                continue
            if self._in_full:
                self._add_columns(row)
            for column in self._columns:
                self._values[column].extend([row.get(column, "")])
            counts.add_example(c for c in self._columns if row.get(c, "").strip())

    def _add_columns(self, row: dict[str, str]) -> None:
        """Columns that no row before had; these are as if it had been empty there."""
        for column in row.keys() - self._values.keys():
            self._values[column] = Strings()
            self._values[column].extend([""] * len(self))
        self._columns = tuple(dict.fromkeys((*self._columns, *row)))

    def __len__(self) -> int:
        return len(self._values[self._image])

    def image(self, index: int) -> bytes:
        file = next(i for i, count in enumerate(self._counts) if index < count)
        path = self._values[self._image][index].decode("utf-8", "surrogateescape")
        return image_file(path, self._folders[file])

    def values(self, index: int) -> Callable[[str], Any]:
        return lambda column: decoded(self._values[column][index], column) or None

    def other_columns(self, index: int) -> dict[str, Any]:
        value = self.values(index)
        return {column: value(column) for column in self._columns if column not in self._covered}


def _content(file: File) -> bytes:
    try:
        return read_file(file.path)
    except OSError as error:
        raise UserError(f"{file.path}: cannot be read ({error.strerror or error})") from error


def _rows(source: Csv, file: File, content: bytes) -> Iterator[tuple[int, dict[str, str]]]:
    """Line number and values of each row. Raises UserError for rows of another length."""
    text = content.decode("utf-8-sig", "surrogateescape")
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=source.delimiter, strict=True)
    try:
        header = list(source.header) or next(reader, [])
        source.check_columns(header, ("image", source.image))
        for row in reader:
            if not row:
                continue
            if len(row) != len(header):
                raise UserError(
                    f"{file.path}:{reader.line_num}: {len(row)} values, but the header has "
                    f"{len(header)}; quote values with {source.delimiter!r} in them"
                )
            yield reader.line_num, dict(zip(header, row, strict=True))
    except csv.Error as error:
        raise UserError(f"{file.path}:{reader.line_num}: {error}") from error


# --- Many short texts in little memory ------------------------------------------------------------


class Strings:
    """A growing list of texts, 8 bytes each beside their UTF-8 bytes.

    What is not UTF-8 is kept as the bytes that were read (surrogate escapes).
    """

    def __init__(self) -> None:
        self._bytes = bytearray()
        self._ends = array("Q", [0])

    def extend(self, texts: Iterable[str]) -> None:
        """Appends texts."""
        for text in texts:
            self._bytes += text.encode("utf-8", "surrogateescape")
            self._ends.append(len(self._bytes))

    def __len__(self) -> int:
        return len(self._ends) - 1

    def __getitem__(self, index: int) -> bytes:
        """The UTF-8 bytes of a text."""
        return bytes(self._bytes[self._ends[index] : self._ends[index + 1]])
