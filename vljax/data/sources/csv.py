"""CSV and TSV tables that list image files.

`Csv` and `Tsv` are the sources, `CsvRecords` their examples; `Strings` keeps the texts of a column
in little memory.
"""

from __future__ import annotations

import csv
import hashlib
import io
import logging
import os
import re
from array import array
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from jaxtyping import Int64

from vljax.config import UserError
from vljax.data.records import ExampleError, Progress, SourceCounts
from vljax.data.sources.base import (
    ColumnRecords,
    FileSource,
    class_names_of,
    decoded,
    image_file,
    numbers_of,
)
from vljax.data.sources.filters import exclusion_reason
from vljax.files import File, decode_text, error_reason, not_utf8, read_file

logger = logging.getLogger(__name__)

Quoting = Literal["csv", "none", "auto"]


@dataclass(frozen=True)
class Csv(FileSource, name="csv"):
    """Images listed in a CSV table.

    The columns that are used are kept in memory.

    >>> with open("pets.csv", "w") as file:
    ...     _ = file.write('image,caption,kind\\n0.jpg,"a dog, asleep",dog\\n1.jpg,a cat,cat\\n')
    >>> records = Csv("pets.csv", label="kind").open()
    >>> records.annotation(0).captions, records.annotation(0).label, records.class_names
    (('a dog, asleep',), 1, ('cat', 'dog'))
    """

    captions: tuple[str, ...] = ("caption",)
    image: str = "image"
    """Column with the path of the image, relative to the folder of the table, or its URL."""
    delimiter: str = ","
    """Character between columns."""
    header: tuple[str, ...] = ()
    """Names of the columns, for files without a header line."""
    quoting: Quoting = "csv"
    """What quotation marks are. "csv": a value in quotation marks may hold delimiters and line
    breaks (RFC 4180). "none": they are text, and each line is a row. "auto": for each file, "csv"
    if the file is well-formed so and no value joins lines that are rows on their own; else
    "none"."""

    def problems(self) -> Iterator[tuple[str, str]]:
        if len(self.delimiter) != 1:
            yield "delimiter", f"must be one character, got {self.delimiter!r}"

    def open(self) -> CsvRecords:
        return CsvRecords(self, self.files("a table", ".csv", ".tsv"))

    def open_with_all_columns(self, workers: int | None, progress: Progress) -> CsvRecords:
        return CsvRecords(self, self.files("a table", ".csv", ".tsv"), all_columns=True)


@dataclass(frozen=True)
class Tsv(Csv, name="tsv"):
    """Images listed in a table with tabs between columns.

    >>> with open("pets.tsv", "w") as file:
    ...     _ = file.write("a dog\\t0.jpg\\na cat\\t1.jpg\\n")
    >>> records = Tsv("pets.tsv", header=("caption", "image")).open()
    >>> [records.annotation(i).captions for i in range(len(records))]
    [('a dog',), ('a cat',)]
    """

    delimiter: str = "\t"
    """Character between columns."""
    quoting: Quoting = "auto"
    """As in `Csv`. Tables such as CC3M have quotation marks that are text; others are written as
    CSV files are."""


class CsvRecords(ColumnRecords):
    """The rows of tables; an image is read when it is asked for."""

    def __init__(self, source: Csv, files: list[File], *, all_columns: bool = False):
        self._columns = tuple(dict.fromkeys((source.image, *source.annotation_columns)))
        self._values = {column: Strings() for column in self._columns}
        self._folders = [os.path.dirname(file.path) for file in files]
        self._ends: list[int] = []  # number of rows up to the end of each file
        self._image = source.image
        self._all_columns, self._restorable = all_columns, source.restorable_columns
        self._damaged: dict[int, str] = {}  # rows that do not fit the header
        self.counts = SourceCounts(files=len(files))
        digests = []
        for file in files:
            content = _content(file)
            digests.append(hashlib.sha256(content).hexdigest())
            text = _text(file, content)
            quoted = _quoted(source, text)
            if not quoted:
                digests.append("none")
            self._add(source, file, text, quoted)
            self._ends.append(len(self))
        if len(self._damaged) == len(self) > 0:
            raise UserError(next(iter(self._damaged.values())))
        label = self._values[source.label] if source.label else Strings()
        names = (label[i].decode(errors="replace").strip() for i in range(len(label)))
        super().__init__(source, class_names_of(names))
        self.identity = source.identity(source.image, source.delimiter, source.header, digests)
        self.counts.log(source.full_name)

    def _add(self, source: Csv, file: File, text: str, quoted: bool) -> None:
        counts = self.counts
        for number, row in _rows(source, file, text, quoted):
            if isinstance(row, str):
                if source.filters:  # they cannot look at its columns
                    counts.leave_out("row does not fit the header", f"{file.name}:{number}")
                    continue
                self._damaged[len(self)] = row
                row = {}
            reason = exclusion_reason(source.filters, row.get)
            if reason is not None:
                counts.leave_out(reason, f"{file.name}:{number}")
                continue
            if self._all_columns:
                self._add_columns(row)
            for column in self._columns:
                self._values[column].extend([row.get(column, "")])
            counts.add_example(c for c in self._columns if row.get(c, "").strip())

    def _add_columns(self, row: dict[str, str]) -> None:
        """Adds the columns of a row that earlier tables did not have, empty for their rows."""
        for column in row.keys() - self._values.keys():
            self._values[column] = Strings()
            self._values[column].extend([""] * len(self))
        self._columns = tuple(dict.fromkeys((*self._columns, *row)))

    def __len__(self) -> int:
        return len(self._values[self._image])

    def image(self, index: int) -> bytes:
        if index in self._damaged:
            raise ExampleError(self._damaged[index], kind="damaged")
        file = next(i for i, count in enumerate(self._ends) if index < count)
        path = self._values[self._image][index].decode("utf-8", "surrogateescape")
        return image_file(path, self._folders[file])

    def image_numbers(self) -> Int64[np.ndarray, " examples"]:
        files = np.searchsorted(self._ends, np.arange(len(self)), side="right").tolist()
        paths = self._values[self._image]
        # A row without a path has no image in common with another one.
        return numbers_of(
            (self._folders[file], paths[i]) if paths[i] else i for i, file in enumerate(files)
        )

    def values(self, index: int) -> Callable[[str], Any]:
        if index in self._damaged:
            raise ExampleError(self._damaged[index], kind="damaged")
        return lambda column: decoded(self._values[column][index], column) or None

    def other_columns(self, index: int) -> dict[str, Any]:
        value = self.values(index)
        return {column: value(column) for column in self._columns if column not in self._restorable}


def _content(file: File) -> bytes:
    try:
        return read_file(file.path)
    except OSError as error:
        raise UserError(f"{file.path}: cannot be read ({error_reason(error)})") from error


def _text(file: File, content: bytes) -> str:
    # Invalid UTF-8 must reject its row only, so it is kept as surrogates until the row is read.
    try:
        return decode_text(content, "surrogateescape")
    except UnicodeDecodeError as error:
        raise UserError(f"{file.path}: {not_utf8(error)}") from error


def _quoted(source: Csv, text: str) -> bool:
    """Whether quotation marks enclose values of a table, by `Csv.quoting`."""
    if source.quoting == "csv" or '"' not in text:
        return True
    if source.quoting == "none":
        return False
    if not re.search(rf'(?:^|[\r\n{re.escape(source.delimiter)}])"', text):
        return True  # no value begins with one
    header, line = list(source.header), 0
    reader = _reader(source, text, quoted=True)
    try:
        for row in reader:
            header = header or row
            if reader.line_num - line > 1 and _are_rows(source, header, row):
                return False
            line = reader.line_num
    except csv.Error:
        return False
    return True


def _are_rows(source: Csv, header: list[str], row: list[str]) -> bool:
    """Whether a row of several lines is a row in each of them if quotation marks are text.

    A file in which they are text loses rows if it is read as CSV: a mark at the start of a caption
    joins all lines up to the next mark at the end of one. Each line then has all columns, and the
    path or URL of an image in its column.
    """
    lines = source.delimiter.join(row).replace("\r\n", "\n").split("\n")
    rows = [line.split(source.delimiter) for line in lines]
    if source.image not in header or any(len(row) != len(header) for row in rows):
        return False
    image = header.index(source.image)
    return all(re.search(r"://|\.\w{2,5}$", row[image]) for row in rows)


def _reader(source: Csv, text: str, *, quoted: bool) -> Any:
    # The default limit of 128 KiB would refuse a table for one long value.
    csv.field_size_limit(2**31 - 1)
    return csv.reader(
        io.StringIO(text, newline=""),
        delimiter=source.delimiter,
        strict=True,
        quoting=csv.QUOTE_MINIMAL if quoted else csv.QUOTE_NONE,
    )


def _rows(
    source: Csv, file: File, text: str, quoted: bool
) -> Iterator[tuple[int, dict[str, str] | str]]:
    """Line number and values of each row; a message in place of a row with too many or too few.

    Raises:
      UserError: if the header lacks a column, or the table is malformed; it has file and line.
    """
    reader = _reader(source, text, quoted=quoted)
    where = file.path
    try:
        header = list(source.header) or next(reader, [])
        _check_header(source, header, where)
        line, warned = reader.line_num, False
        for row in reader:
            lines, line = reader.line_num - line, reader.line_num
            if not row:
                continue
            # In a file that was chosen to be read as CSV, no value is like that.
            suspect = source.quoting == "csv" and lines > 1 and not warned
            if suspect and _are_rows(source, header, row):
                warned = True
                logger.warning(
                    "%s:%d: a value in quotation marks joins lines that look like rows; if the "
                    "marks are text, set data.source.quoting to none",
                    *(where, line),
                )
            if len(row) == len(header):
                yield reader.line_num, dict(zip(header, row, strict=True))
            else:
                quote = f"; quote values with {source.delimiter!r} in them" if quoted else ""
                yield (
                    reader.line_num,
                    f"{where}:{reader.line_num}: {len(row)} values, but the header has "
                    f"{len(header)}{quote}",
                )
    except csv.Error as error:
        text_marks = "; if quotation marks are text, set data.source.quoting to none"
        raise UserError(
            f"{where}:{reader.line_num}: {error}{text_marks if quoted else ''}"
        ) from error


def _check_header(source: Csv, header: list[str], where: str) -> None:
    """Raises UserError if a chosen column is not there, or two columns have the same name."""
    try:
        source.check_columns(header, ("image", source.image))
    except UserError as error:
        others = [mark for mark in _DELIMITERS if len(header) == 1 and mark in header[0]]
        if not others:
            raise
        written = {"\t": "$'\\t'"}.get(others[0], f"'{others[0]}'")
        raise UserError(
            f"{where}: one column only, {header[0]!r}; if {others[0]!r} stands between columns, set"
            f" --data.source.delimiter {written} (--delimiter {written} in `vljax data`)"
        ) from error
    # Columns without a name are never chosen; some programs write several.
    for name, count in Counter(header).items():
        if count > 1 and name:
            raise UserError(
                f"{where}: {count} columns are named {name!r}; rename all but one of them"
            )


_DELIMITERS = (",", ";", "\t", "|")


class Strings:
    """A growing list of texts, each stored as its UTF-8 bytes and 8 bytes for its end.

    A list of `str` takes about 50 bytes more per text, which matters for tables with 10 million
    rows. Surrogate escapes are stored as the invalid bytes that they stand for.
    """

    def __init__(self) -> None:
        self._bytes = bytearray()
        self._ends = array("Q", [0])

    def extend(self, texts: Iterable[str]) -> None:
        """Appends texts, which may have surrogate escapes."""
        for text in texts:
            self._bytes += text.encode("utf-8", "surrogateescape")
            self._ends.append(len(self._bytes))

    def __len__(self) -> int:
        return len(self._ends) - 1

    def __getitem__(self, index: int) -> bytes:
        """The UTF-8 bytes of a text."""
        return bytes(self._bytes[self._ends[index] : self._ends[index + 1]])
