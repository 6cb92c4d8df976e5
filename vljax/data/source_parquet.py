"""Parquet files with image files or their paths, and captions."""

from __future__ import annotations

import os
from array import array
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from vljax.data.accounting import SourceCounts
from vljax.data.columns import DescribedRecords, FileSource, class_names_of, class_text
from vljax.data.file_sets import File
from vljax.data.filters import left_out_by
from vljax.data.image_column import image_file
from vljax.data.last_read import LastRead
from vljax.data.parquet_groups import ParquetGroups
from vljax.data.source_base import ExampleError


@dataclass(frozen=True)
class Parquet(FileSource, name="parquet"):
    """The rows of Parquet files; a folder stands for the `.parquet` files in it.

    A row group is read whole for any of its rows. Where groups hold many images, training in random
    order reads each of them again and again: write such a set with smaller groups.

    Attributes:
      image: column with the bytes of image files, with their paths relative to the Parquet file, or
        with both as Hugging Face writes them.
    """

    captions: tuple[str, ...] = ("caption",)
    image: str = "image"

    def open(self) -> ParquetRecords:
        return ParquetRecords(self, self.files("Parquet files", ".parquet"))


class ParquetRecords(DescribedRecords):
    """The rows that filters keep."""

    def __init__(self, source: Parquet, files: list[File]):
        self._groups = ParquetGroups(files)
        source.check_columns(self._groups.schema.names, ("image", source.image))
        self._image = source.image
        self._columns = source.described_by
        covered = {source.image, *source.covered}
        self._others = tuple(name for name in self._groups.schema.names if name not in covered)
        self._last = LastRead()
        self.accounting = SourceCounts(files=len(files))
        self._rows = self._kept(source) if source.filters else None
        if self._rows is None:
            self._count_all()
        stated = self._groups.hugging_face_classes(source.label) if source.label else ()
        super().__init__(source, stated or self._class_names(source), indexed=bool(stated))
        self.identity = source.identity(source.image, self._groups.footers())
        self.accounting.log(source.full_name)

    def _kept(self, source: Parquet) -> np.ndarray:
        accounting = self.accounting
        columns = tuple(dict.fromkeys((*source.described_by, *source.filtered_by)))
        kept = array("q")
        for number, row in enumerate(self._groups.rows(columns)):
            reason = left_out_by(source.filters, row.get)
            if reason is not None:
                accounting.leave_out(reason, f"row {number}")
                continue
            kept.append(number)
            accounting.count(c for c in self._columns if row[c] not in (None, "", []))
        return np.frombuffer(kept, np.int64)

    def _count_all(self) -> None:
        accounting = self.accounting
        accounting.examples = len(self._groups)
        counts = {column: self._groups.without_nulls(column) for column in self._columns}
        accounting.fields = {name: count for name, count in counts.items() if count is not None}

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
