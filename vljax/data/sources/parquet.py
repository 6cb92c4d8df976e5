"""Parquet files with image files or their paths, and captions."""

from __future__ import annotations

import json
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
    class_text,
    image_file,
)
from vljax.data.sources.filters import exclusion_reason
from vljax.files import File, filesystem, is_remote


@dataclass(frozen=True)
class Parquet(FileSource, name="parquet"):
    """The rows of Parquet files; a folder stands for the `.parquet` files in it.

    A row group is read whole for any of its rows. Where groups hold many images, training in random
    order reads each of them again and again: write such a set with smaller groups.
    """

    captions: tuple[str, ...] = ("caption",)
    image: str = "image"
    """Column with the bytes of image files, with their paths relative to the Parquet file, or with
    both as Hugging Face writes them."""

    def open(self) -> ParquetRecords:
        return ParquetRecords(self, self.files("Parquet files", ".parquet"))


class ParquetRecords(ColumnRecords):
    """The rows that filters keep."""

    def __init__(self, source: Parquet, files: list[File]):
        self._groups = ParquetGroups(files)
        source.check_columns(self._groups.schema.names, ("image", source.image))
        self._image = source.image
        self._columns = source.annotation_columns
        covered = {source.image, *source.covered}
        self._others = tuple(name for name in self._groups.schema.names if name not in covered)
        self._last = LastRead()
        self.counts = SourceCounts(files=len(files))
        self._rows = self._kept(source) if source.filters else None
        if self._rows is None:
            self._count_all()
        stated = self._groups.hugging_face_classes(source.label) if source.label else ()
        super().__init__(source, stated or self._class_names(source), indexed=bool(stated))
        self.identity = source.identity(source.image, self._groups.footers())
        self.counts.log(source.full_name)

    def _kept(self, source: Parquet) -> np.ndarray:
        counts = self.counts
        columns = tuple(dict.fromkeys((*source.annotation_columns, *source.filter_columns)))
        kept = array("q")
        for number, row in enumerate(self._groups.rows(columns)):
            reason = exclusion_reason(source.filters, row.get)
            if reason is not None:
                counts.leave_out(reason, f"row {number}")
                continue
            kept.append(number)
            counts.add_example(c for c in self._columns if row[c] not in (None, "", []))
        return np.frombuffer(kept, np.int64)

    def _count_all(self) -> None:
        counts = self.counts
        counts.examples = len(self._groups)
        present = {column: self._groups.without_nulls(column) for column in self._columns}
        counts.fields = {name: count for name, count in present.items() if count is not None}

    def _class_names(self, source: Parquet) -> tuple[str, ...]:
        if source.label is None or source.classes is not None:
            return ()
        values = (row[source.label] for row in self._groups.rows((source.label,)))
        return class_names_of({class_text(value) for value in values if value is not None})

    def __len__(self) -> int:
        return len(self._groups) if self._rows is None else len(self._rows)

    def image(self, index: int) -> bytes:
        row = self._row(index)
        value = self._read(row, (self._image,))[self._image]
        return image_file(value, os.path.dirname(self._groups.file_of(row).path))

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
        try:
            return self._groups.row(row, columns)
        except (OSError, ValueError) as error:  # pyarrow's errors are of these kinds
            name = self._groups.file_of(row).name
            raise ExampleError(
                f"row {row} of {name} cannot be read ({error})", kind="unreadable"
            ) from error


# --- Rows of Parquet files by number --------------------------------------------------------------

_CACHE_BYTES = 2**29


class ParquetGroups:
    """The row groups of several files as one table, each read whole when a row of it is asked for.

    What was read last stays in memory, up to 512 MiB a process. Safe to use from threads and to
    pickle.

    Args:
      files: with the same columns.

    Raises:
      UserError: if one is no Parquet file or is damaged, or PyArrow is not installed.
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
        place = row - int(self._starts[group])
        table = self._read(group, columns)
        return {column: table.column(column)[place].as_py() for column in columns}

    def rows(self, columns: tuple[str, ...]) -> Iterator[dict[str, Any]]:
        """The values of some columns in all rows."""
        for group in range(len(self._groups)):
            yield from self._read_anew(group, columns).to_pylist()

    def footers(self) -> list[Any]:
        """Names, sizes and the places of all column chunks: what tells one set from another."""
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

    def without_nulls(self, column: str) -> int | None:
        """In how many rows a plain column has a value; None where the files do not say."""
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

    def hugging_face_classes(self, column: str) -> tuple[str, ...]:
        """The class names that Hugging Face's `datasets` stored for a column; empty if none."""
        metadata = (self.schema.metadata or {}).get(b"huggingface", b"{}")
        features = json.loads(metadata).get("info", {}).get("features", {})
        names = features.get(column, {}).get("names", ()) if isinstance(features, dict) else ()
        return tuple(names)

    def _group_of(self, row: int) -> int:
        if not 0 <= row < len(self):
            raise IndexError(f"row {row} of {len(self)}")
        return int(np.searchsorted(self._starts, row, side="right")) - 1

    def _read(self, group: int, columns: tuple[str, ...]) -> Any:
        key = group, columns
        with self._lock:  # PyArrow's readers are not made for several threads
            if key not in self._cache:
                self._cache[key] = self._read_group(group, columns)
            self._cache.move_to_end(key)
            while len(self._cache) > 1 and _size(self._cache) > _CACHE_BYTES:
                self._cache.popitem(last=False)
            return self._cache[key]

    def _read_anew(self, group: int, columns: tuple[str, ...]) -> Any:
        with self._lock:
            return self._read_group(group, columns)

    def _read_group(self, group: int, columns: tuple[str, ...]) -> Any:
        file, number = self._groups[group]
        return self._readers[file].read_row_group(number, columns=list(columns))


def _size(cache: OrderedDict[tuple[int, tuple[str, ...]], Any]) -> int:
    return sum(table.nbytes for table in cache.values())


def _reader(file: File) -> Any:
    try:
        from pyarrow import ArrowException, parquet
    except ImportError as error:
        raise UserError("Parquet files need a package: pip install 'vljax[data]'") from error
    try:
        if not is_remote(file.path):
            return parquet.ParquetFile(file.path, memory_map=True)
        system, path = filesystem(file.path)
        return parquet.ParquetFile(system.open(path, "rb"))
    except (ArrowException, OSError, ValueError) as error:
        first = next(iter(str(error).splitlines()), "")
        raise UserError(f"{file.path}: no intact Parquet file ({first})") from error
