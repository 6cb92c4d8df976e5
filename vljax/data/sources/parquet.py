"""Parquet files with images or paths of images, and captions.

`Parquet` is the source, `ParquetRecords` its examples, and `ParquetRows` gives the rows of several
files by number.
"""

from __future__ import annotations

import logging
import os
import threading
from array import array
from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from vljax.config import UserError
from vljax.data.records import ExampleError, SourceCounts
from vljax.data.sources.base import (
    ColumnRecords,
    FileSource,
    LastRead,
    class_names_of,
    class_texts,
    image_file,
)
from vljax.data.sources.filters import exclusion_reason
from vljax.files import File, encodable, filesystem, is_remote, parse_json


@dataclass(frozen=True)
class Parquet(FileSource, name="parquet"):
    """The rows of Parquet files; a folder stands for the `.parquet` files in it.

    Reading one row reads its whole row group. If row groups have many images, training in random
    order reads each group again and again. Write such a data set with smaller row groups.

    >>> import pyarrow, pyarrow.parquet
    >>> table = pyarrow.table({"image": [b"(jpeg)", b"(png)"], "alt": ["a dog", "a cat"]})
    >>> pyarrow.parquet.write_table(table, "pets.parquet", row_group_size=100)
    >>> records = Parquet("pets.parquet", captions=("alt",)).open()
    >>> records[1].captions, records[1].image
    (('a cat',), b'(png)')
    """

    captions: tuple[str, ...] = ("caption",)
    image: str = "image"
    """Column with the bytes of image files, with their paths relative to the Parquet file, or with
    both, as Hugging Face writes images."""

    def open(self) -> ParquetRecords:
        return ParquetRecords(self, self.files("Parquet files", ".parquet"))


class ParquetRecords(ColumnRecords):
    """The rows that pass all filters."""

    def __init__(self, source: Parquet, files: list[File]):
        self._table = ParquetRows(files)
        source.check_columns(self._table.schema.names, ("image", source.image))
        if source.label and self._table.is_nested(source.label):
            raise UserError(
                f"data.source.label: {source.full_name}: {source.label!r} holds lists or objects; "
                "name a column with one class in each row"
            )
        self._image = source.image
        self._columns = source.annotation_columns
        restorable = {source.image, *source.restorable_columns}
        self._others = tuple(name for name in self._table.schema.names if name not in restorable)
        self._last = LastRead()
        self.counts = SourceCounts(files=len(files))
        self._rows = self._filtered(source) if source.filters else None
        if self._rows is None:
            self._count_all()
        stated = self._table.hugging_face_classes(source.label) if source.label else ()
        super().__init__(source, stated or self._class_names(source), indexed=bool(stated))
        self.identity = source.identity(source.image, self._table.footers())
        self.counts.log(source.full_name)

    def _filtered(self, source: Parquet) -> np.ndarray:
        counts = self.counts
        columns = tuple(dict.fromkeys((*source.annotation_columns, *source.filter_columns)))
        kept = array("q")
        for number, row in enumerate(self._table.rows(columns)):
            reason = exclusion_reason(source.filters, row.get)
            if reason is not None:
                counts.leave_out(reason, f"row {number}")
                continue
            kept.append(number)
            counts.add_example(c for c in self._columns if row[c] not in (None, "", []))
        return np.frombuffer(kept, np.int64)

    def _count_all(self) -> None:
        counts = self.counts
        counts.examples = len(self._table)
        present = {column: self._table.non_null_count(column) for column in self._columns}
        counts.fields = {name: count for name, count in present.items() if count is not None}

    def _class_names(self, source: Parquet) -> tuple[str, ...]:
        if source.label is None or source.classes is not None:
            return ()
        values = (row[source.label] for row in self._table.rows((source.label,)))
        return class_names_of({*class_texts(values)})

    def __len__(self) -> int:
        return len(self._table) if self._rows is None else len(self._rows)

    def image(self, index: int) -> bytes:
        row = self._row(index)
        value = self._read(row, (self._image,))[self._image]
        return image_file(value, os.path.dirname(self._table.file_of(row).path))

    def values(self, index: int) -> Callable[[str], Any]:
        row = self._row(index)
        values: dict[str, Any] = self._last.get(row, lambda: self._read(row, self._columns))
        return values.__getitem__

    def other_columns(self, index: int) -> dict[str, Any]:
        row = self._row(index)
        columns = self._read(row, self._others)
        image = self._read(row, (self._image,))[self._image]
        path = image.get("path") if isinstance(image, dict) else image
        return {**({self._image: path} if isinstance(path, str) else {}), **columns}

    def _row(self, index: int) -> int:
        return index if self._rows is None else int(self._rows[index])

    def _read(self, row: int, columns: tuple[str, ...]) -> dict[str, Any]:
        from pyarrow import ArrowException

        try:
            return self._table.row(row, columns)
        except (ArrowException, OSError, ValueError) as error:
            name = self._table.file_of(row).name
            bad_text = isinstance(error, UnicodeDecodeError)
            raise ExampleError(
                f"row {row} of {name} cannot be read ({error})",
                kind="bad_utf8" if bad_text else "unreadable",
            ) from error


# --- The rows of several files --------------------------------------------------------------------

_CACHE_BYTES = 2**29
_BATCH_BYTES = 2**30

logger = logging.getLogger(__name__)


class ParquetRows:
    """The rows of several Parquet files by number. Safe to use from threads and to pickle.

    The row groups that were read last stay in memory, up to 512 MiB per process.

    Args:
      files: files with the same columns.

    Raises:
      UserError: if one of them is not a Parquet file, is damaged, or lacks a column.
    """

    def __init__(self, files: list[File]):
        self._files = files
        self._open()
        groups = [
            (i, group, reader.metadata.row_group(group).num_rows)
            for i, reader in enumerate(self._readers)
            for group in range(reader.metadata.num_row_groups)
        ]
        self._groups = [(file, group) for file, group, _ in groups]
        self._starts = np.array([0, *np.cumsum([rows for *_, rows in groups])], np.int64)
        self.schema = self._readers[0].schema_arrow
        """The Arrow schema of the first file."""
        for file, reader in zip(files, self._readers, strict=True):
            if missing := set(self.schema.names) - set(reader.schema_arrow.names):
                raise UserError(f"{file.path}: no column {min(missing)!r}; {files[0].path} has it")

    def _open(self) -> None:
        self._readers = [_reader(file) for file in self._files]
        self._cache: OrderedDict[tuple[int, tuple[str, ...]], Any] = OrderedDict()
        self._lock = threading.Lock()

    def __getstate__(self) -> dict[str, Any]:
        own = ("_readers", "_cache", "_lock", "schema")
        return {name: value for name, value in self.__dict__.items() if name not in own}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._open()
        self.schema = self._readers[0].schema_arrow

    def __len__(self) -> int:
        return int(self._starts[-1])

    def file_of(self, row: int) -> File:
        """The file that holds a row."""
        return self._files[self._groups[self._group_of(row)][0]]

    def row(self, row: int, columns: tuple[str, ...]) -> dict[str, Any]:
        """The values of some columns in a row. Raises OSError or ValueError if it is damaged."""
        group = self._group_of(row)
        row_in_group = row - int(self._starts[group])
        table = self._read(group, columns)
        return {column: table.column(column)[row_in_group].as_py() for column in columns}

    def rows(self, columns: tuple[str, ...]) -> Iterator[dict[str, Any]]:
        """The values of some columns in all rows; None for what cannot be read."""
        from pyarrow import ArrowException

        for group, (file, number) in enumerate(self._groups):
            try:
                table = self._read_uncached(group, columns)
            except (ArrowException, OSError) as error:
                where = f"row group {number} of {self._files[file].path}"
                logger.warning("%s: cannot be read (%s)", where, error)
                count = int(self._starts[group + 1] - self._starts[group])
                yield from (dict.fromkeys(columns) for _ in range(count))
                continue
            try:
                rows = table.to_pylist()
            except UnicodeDecodeError:
                rows = [{c: _value(table.column(c)[i]) for c in columns} for i in range(len(table))]
            yield from rows

    def footers(self) -> list[Any]:
        """Names and sizes of files and of their column chunks; they change with the content."""
        content = []
        for file, reader in zip(self._files, self._readers, strict=True):
            metadata = reader.metadata
            chunks = [
                (chunk.total_compressed_size, chunk.total_uncompressed_size, chunk.num_values)
                for group in range(metadata.num_row_groups)
                for chunk in map(metadata.row_group(group).column, range(metadata.num_columns))
            ]
            content.append([file.name, file.size, chunks])
        return content

    def non_null_count(self, column: str) -> int | None:
        """The number of rows with a value in a column; None if the files do not store it."""
        count = 0
        for reader in self._readers:
            metadata = reader.metadata
            names = [metadata.schema.column(i).path for i in range(metadata.num_columns)]
            if column not in names:
                return None
            for group in range(metadata.num_row_groups):
                chunk = metadata.row_group(group).column(names.index(column))
                if chunk.statistics is None or not chunk.statistics.has_null_count:
                    return None
                count += chunk.num_values - chunk.statistics.null_count
        return count

    def is_nested(self, column: str) -> bool:
        """Whether the values of a column are lists or objects."""
        from pyarrow import types

        return bool(types.is_nested(self.schema.field(column).type))

    def hugging_face_classes(self, column: str) -> tuple[str, ...]:
        """The class names that the `datasets` package stored for a column; empty if none."""
        content = (self.schema.metadata or {}).get(b"huggingface", b"")
        try:
            names = parse_json(content)["info"]["features"][column]["names"]
        except (ValueError, LookupError, TypeError):
            return ()  # metadata of other software, or without names
        is_names = isinstance(names, list) and all(isinstance(name, str) for name in names)
        return tuple(encodable(name) for name in names) if is_names else ()

    def _group_of(self, row: int) -> int:
        if not 0 <= row < len(self):
            raise IndexError(f"row {row} of {len(self)}")
        return int(np.searchsorted(self._starts, row, side="right")) - 1

    def _read(self, group: int, columns: tuple[str, ...]) -> Any:
        key = group, columns
        with self._lock:  # a PyArrow reader must not be used by two threads at once
            if key in self._cache:
                self._cache.move_to_end(key)
                return self._cache[key]
            self._cache[key] = self._read_group(group, columns)
            while _size(self._cache) > _CACHE_BYTES:
                # Captions and images are read in turn: the last group of each stays, however large.
                last = {kept[1]: kept for kept in self._cache}.values()
                oldest = next((kept for kept in self._cache if kept not in last), None)
                if oldest is None:
                    break
                del self._cache[oldest]
            return self._cache[key]

    def _read_uncached(self, group: int, columns: tuple[str, ...]) -> Any:
        with self._lock:
            return self._read_group(group, columns)

    def _read_group(self, group: int, columns: tuple[str, ...]) -> Any:
        from pyarrow import ArrowNotImplementedError, Table

        file, number = self._groups[group]
        reader = self._readers[file]
        try:
            return reader.read_row_group(number, columns=list(columns))
        except ArrowNotImplementedError:  # images of more than 2 GiB in one group
            about = reader.metadata.row_group(number)
            rows = max(1, about.num_rows * _BATCH_BYTES // max(1, about.total_byte_size))
            options = {"row_groups": [number], "columns": list(columns), "batch_size": rows}
            return Table.from_batches(reader.iter_batches(**options))


def _value(scalar: Any) -> Any:
    try:
        return scalar.as_py()
    except UnicodeDecodeError:
        return None


def _size(cache: OrderedDict[tuple[int, tuple[str, ...]], Any]) -> int:
    return sum(table.nbytes for table in cache.values())


def _reader(file: File) -> Any:
    from pyarrow import ArrowException, parquet

    try:
        if not is_remote(file.path):
            return parquet.ParquetFile(file.path, memory_map=True)
        system, path = filesystem(file.path)
        return parquet.ParquetFile(system.open(path, "rb"))
    except (ArrowException, OSError, ValueError) as error:
        first = next(iter(str(error).splitlines()), "")
        raise UserError(f"{file.path}: not an intact Parquet file ({first})") from error
