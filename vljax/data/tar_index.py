"""The index of a set of tar shards: built once, in parallel, kept on disk.

A folder `.vljax` beside the shards, or where that cannot be written to a cache folder, holds for
each set a folder named by a hash of what the index depends on (names, sizes and stamps of the
shards, what it is made for):

    parts/HASH.npz   the index of one shard, so that an interrupted build goes on where it stopped
    rows.bin         for each example and column two uint32: first block of 512 bytes, and size
    index.json       everything else; written last, so that what it stands beside is complete

Rows are read from the file by number and never all held in memory. What training needs is 8 bytes
an example and column.
"""

from __future__ import annotations

import contextlib
import json
import os
import tempfile
from dataclasses import dataclass

import numpy as np
from jaxtyping import UInt32

from vljax.config import UserError
from vljax.data.accounting import Progress, SourceCounts
from vljax.data.file_sets import File
from vljax.data.files import (
    filesystem,
    is_remote,
    join,
    partial_name,
    read_file,
    read_range,
    write_file,
)
from vljax.data.tar_index_build import ROW, build, index_name
from vljax.data.tar_scan import Wanted


@dataclass(frozen=True)
class TarIndex:
    """An index on local disk.

    Attributes:
      folder: where it is.
      width: how many members each row tells of.
      starts: number of the first example of each shard, and of all examples.
      accounting: what was counted.
      classes: values that occur as class.
      columns: what can be chosen.
      identity: a hash of names, sizes and places of everything.
    """

    folder: str
    width: int
    starts: np.ndarray
    accounting: SourceCounts
    classes: tuple[str, ...]
    columns: tuple[str, ...]
    identity: str

    @classmethod
    def load(cls, folder: str) -> TarIndex:
        """Opens an index. Raises OSError or ValueError if it is not complete."""
        content = json.loads(read_file(join(folder, "index.json")))
        index = cls(
            folder=folder,
            width=content["width"],
            starts=np.array([0, *np.cumsum(content["examples"], dtype=np.int64)], np.int64),
            accounting=SourceCounts(**content["accounting"]),
            classes=tuple(content["classes"]),
            columns=tuple(content["columns"]),
            identity=content["identity"],
        )
        if os.path.getsize(index._rows) != len(index) * index._row_bytes:
            raise ValueError(f"{index._rows}: not as long as index.json says")
        return index

    def __len__(self) -> int:
        return int(self.starts[-1])

    def row(self, index: int) -> tuple[int, UInt32[np.ndarray, "members 2"]]:
        """The number of the shard that holds an example, and where its members are in it."""
        if not 0 <= index < len(self):
            raise IndexError(f"example {index} of {len(self)}")
        shard = int(np.searchsorted(self.starts, index, side="right")) - 1
        size = self._row_bytes
        content = read_range(self._rows, self.identity, index * size, size)
        return shard, np.frombuffer(content, ROW).reshape(self.width, 2)

    @property
    def _rows(self) -> str:
        return join(self.folder, "rows.bin")

    @property
    def _row_bytes(self) -> int:
        return self.width * 2 * ROW.itemsize


def open_index(
    shards: list[File],
    wanted: Wanted,
    *,
    folder: str | None,
    workers: int | None,
    progress: Progress,
) -> TarIndex:
    """The index of shards, built where there is none that fits them.

    Args:
      shards: as they are now.
      wanted: what it is made for.
      folder: where indices are kept; by default beside the shards or in a cache folder.
      workers: processes that build it; None for as many as there are cores.
      progress: is told the shards done and all there are.

    Raises:
      UserError: if shards are damaged: the first of them; those that are intact are kept.
    """
    from filelock import FileLock

    folder = os.path.expanduser(folder) if folder and not is_remote(folder) else folder
    key = index_name(shards, wanted)
    homes = (
        [folder] if folder else [join(os.path.dirname(shards[0].path), ".vljax"), cache_folder()]
    )
    for home in homes:
        with contextlib.suppress(OSError, ValueError):
            return TarIndex.load(_fetched(join(home, key)))
    writable = [home for home in homes if _writable(home)]
    if not writable:
        raise UserError(f"{homes[-1]}: cannot be written to; set data.source.index_folder")
    lock = os.path.join(tempfile.gettempdir(), f"vljax-{os.getuid()}-{key}.lock")
    with FileLock(lock):  # other processes of this machine wait, and find it done
        target = join(writable[0], key)
        try:
            return TarIndex.load(_fetched(target))
        except (OSError, ValueError):
            # Another machine may be quicker, and remove the parts that it put together.
            with contextlib.suppress(FileNotFoundError):
                build(shards, wanted, target, workers, progress)
    try:
        return TarIndex.load(_fetched(target))
    except (OSError, ValueError) as error:
        raise UserError(f"{target}: cannot be read once built ({error}); remove it") from error


def cache_folder() -> str:
    """Where indices are kept that cannot be kept beside their shards."""
    base = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    return os.path.join(base, "vljax", "indices")


def _writable(folder: str) -> bool:
    probe = partial_name(join(folder, ".writable"))
    try:
        write_file(probe, b"x")
        if is_remote(folder):
            system, path = filesystem(probe)
            system.rm_file(path)
        else:
            os.unlink(probe)
    except Exception:  # remote file systems raise errors of their own
        return False
    return True


def _fetched(folder: str) -> str:
    """A local copy of an index that is kept remotely; a local one as it is."""
    if not is_remote(folder):
        return folder
    copy = join(cache_folder(), "copies", folder.rpartition("/")[2])
    if not os.path.exists(join(copy, "index.json")):
        for name in ("rows.bin", "index.json"):
            system, path = filesystem(join(folder, name))
            partial = partial_name(join(copy, name))
            os.makedirs(copy, exist_ok=True)
            try:
                system.get_file(path, partial)
            except OSError:
                raise
            except Exception as error:  # remote file systems raise errors of their own
                raise OSError(str(error)) from error
            os.replace(partial, join(copy, name))
    return copy
