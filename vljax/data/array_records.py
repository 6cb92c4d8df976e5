"""ArrayRecord files: their records by number, and what tells one set from another."""

from __future__ import annotations

import functools
from typing import Any

from vljax.config import UserError
from vljax.data.file_sets import File
from vljax.data.files import read_range

# The end of a file holds the places of all its chunks.
_TAIL = 2**16


class ArrayRecords:
    """Records of several files by number. Safe to use from threads and to pickle.

    Args:
      files: in order.

    Raises:
      UserError: if one of them is no ArrayRecord file.
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
        """Names, sizes, counts and the ends of the files."""
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
        raise UserError(f"{file.path}: no intact ArrayRecord file ({first})") from error
    return count


def _tail(file: File) -> bytes:
    import hashlib

    size = min(file.size, _TAIL)
    try:
        content = read_range(file.path, file.stamp, file.size - size, size)
    except OSError as error:
        raise UserError(f"{file.path}: cannot be read ({error})") from error
    return hashlib.sha256(content).digest()
