"""The index of a set of tar shards: built once, in parallel, and kept on disk.

Each index is a folder in `.vljax` beside the shards, or in a cache folder if the shards are not
writable. The name of the folder is a hash of what the index depends on: the names, sizes and stamps
of the shards, and `IndexOptions`.

    parts/HASH.npz   the index of one shard, so that an interrupted build continues
    rows.bin         for each example and member two uint32: first block of 512 bytes, and size
    index.json       everything else; written last, so that an index with it is complete

An example takes 8 bytes per member on disk. Each row is read from the file when it is needed, so
that an index of 100 million examples needs almost no memory.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import tempfile
from collections.abc import Iterator
from concurrent.futures import as_completed
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import UInt32

from vljax.config import UserError, encode
from vljax.data.records import Progress, SourceCounts
from vljax.data.sources.tar_scan import IndexOptions, Scan, scan
from vljax.data.worker_pool import usable_cores, worker_pool
from vljax.files import (
    File,
    atomic_file,
    base_name,
    download,
    expand_user,
    is_remote,
    join,
    list_folder,
    parent,
    partial_name,
    read_file,
    read_range,
    remove_file,
    remove_folder,
    write_file,
)


@dataclass(frozen=True)
class TarIndex:
    """An index on the local disk."""

    folder: str
    """Folder of the index."""
    width: int
    """Number of members in each row: the image, then those of `IndexOptions.members`."""
    starts: np.ndarray
    """Index of the first example of each shard, then the number of all examples."""
    counts: SourceCounts
    """Numbers of shards, examples and fields."""
    classes: tuple[str, ...]
    """Values of the label column."""
    columns: tuple[str, ...]
    """Columns that a source can name."""
    identity: str
    """Hash of the names and sizes of the shards and of all rows."""

    @classmethod
    def load(cls, folder: str) -> TarIndex:
        """Opens an index. Raises OSError or ValueError if it is not complete."""
        content = json.loads(read_file(join(folder, "index.json")))
        index = cls(
            folder=folder,
            width=content["width"],
            starts=np.array([0, *np.cumsum(content["examples"], dtype=np.int64)], np.int64),
            counts=SourceCounts(**content["accounting"]),
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
        """The shard that holds an example, and first block and size of each of its members."""
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
    options: IndexOptions,
    *,
    folder: str | None,
    workers: int | None,
    progress: Progress,
) -> TarIndex:
    """The index of shards; builds it if it is missing or out of date.

    Args:
      shards: the shards as they are now.
      options: what to index.
      folder: folder of all indices; None means beside the shards, or else the cache folder.
      workers: number of processes that build it; None means one per core.
      progress: called with the number of shards that are done and the total.

    Raises:
      UserError: if shards are damaged (names the first); the parts of intact shards are kept.
    """
    from filelock import FileLock

    key = index_name(shards, options)
    if folder:
        homes = [expand_user(folder)]
    else:
        homes = [join(parent(shards[0].path), ".vljax"), cache_folder()]
    for home in homes:
        with contextlib.suppress(OSError, ValueError):
            return TarIndex.load(_local_copy(join(home, key)))
    writable = [home for home in homes if _writable(home)]
    if not writable:
        raise UserError(f"{homes[-1]}: cannot be written to; set data.source.index_folder")
    lock = os.path.join(tempfile.gettempdir(), f"vljax-{os.getuid()}-{key}.lock")
    with FileLock(lock):  # one process on this machine builds the index; the others wait
        target = join(writable[0], key)
        try:
            return TarIndex.load(_local_copy(target))
        except (OSError, ValueError):
            # Another machine may finish first, and remove the parts after merging them.
            with contextlib.suppress(FileNotFoundError):
                build(shards, options, target, workers, progress)
    try:
        return TarIndex.load(_local_copy(target))
    except (OSError, ValueError) as error:
        raise UserError(f"{target}: cannot be read once built ({error}); remove it") from error


def cache_folder() -> str:
    """The folder for indices of shards that are not writable."""
    base = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    return os.path.join(base, "vljax", "indices")


def _writable(folder: str) -> bool:
    probe = partial_name(join(folder, ".writable"))
    try:
        write_file(probe, b"x")
        remove_file(probe)
    except OSError:
        return False
    return True


def _local_copy(folder: str) -> str:
    """The folder of an index on the local disk; a remote index is downloaded first."""
    if not is_remote(folder):
        return folder
    copy = join(cache_folder(), "copies", base_name(folder))
    if not os.path.exists(join(copy, "index.json")):
        os.makedirs(copy, exist_ok=True)
        for name in ("rows.bin", "index.json"):
            download(join(folder, name), join(copy, name))
    return copy


# --- Building an index ----------------------------------------------------------------------------

# Increase it if the same shards give another index: they are scanned again.
_VERSION = 2
# Part of the identity of an index, which otherwise follows from its rows: runs resume with the
# same examples, however they were indexed.
_IDENTITY_VERSION = 1
# Bytes of shards. Fewer are scanned in this process, since worker processes take seconds to start.
_MIN_PARALLEL_BYTES = 2**27
ROW = np.dtype("<u4")


def index_name(shards: list[File], options: IndexOptions) -> str:
    """The name of the folder of an index: a hash of everything that it depends on."""
    content = [
        _VERSION,
        [[shard.name, shard.size, shard.stamp] for shard in shards],
        encode(options),
    ]
    return _hash(content)


def _hash(content: Any) -> str:
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:32]


def build(
    shards: list[File], options: IndexOptions, target: str, workers: int | None, progress: Progress
) -> None:
    """Scans each shard that has no part yet, and merges the parts into an index.

    Args:
      shards: the shards as they are now.
      options: what to index.
      target: folder of the index, local or remote.
      workers: number of processes; None means one per core.
      progress: called with the number of shards that are done and the total.

    Raises:
      UserError: if shards are damaged; raised after all are scanned, and names the first.
    """
    parts = join(target, "parts")
    part_of = {shard: join(parts, f"{_part_name(shard, options)}.npz") for shard in shards}
    existing = list_folder(parts)
    todo = [shard for shard in shards if base_name(part_of[shard]) not in existing]
    done = len(shards) - len(todo)
    progress(done, len(shards))
    errors: dict[str, str] = {}
    for shard, error in _scan_all(todo, options, part_of, workers):
        done += 1
        if error is not None:
            errors[shard.path] = error
        progress(done, len(shards))
    if errors:
        first = next(errors[shard.path] for shard in shards if shard.path in errors)
        more = f" (and {len(errors) - 1} more shards)" if len(errors) > 1 else ""
        raise UserError(f"{first}{more}")
    _merge(shards, options, [part_of[shard] for shard in shards], target)


def _part_name(shard: File, options: IndexOptions) -> str:
    return _hash([_VERSION, shard.name, shard.size, shard.stamp, encode(options)])


def _scan_all(
    todo: list[File], options: IndexOptions, part_of: dict[File, str], workers: int | None
) -> Iterator[tuple[File, str | None]]:
    """Scans shards and writes their parts; yields each finished shard with its error, if any."""
    workers = min(workers or usable_cores(), len(todo))
    small = sum(shard.size for shard in todo) < _MIN_PARALLEL_BYTES
    if workers <= 1 or small or todo[0].path.startswith("memory://"):
        for shard in todo:
            yield shard, _scan_part(shard, options, part_of[shard])
        return
    with worker_pool(workers, "indexed shards") as pool:
        futures = {pool.submit(_scan_part, s, options, part_of[s]): s for s in todo}
        for future in as_completed(futures):
            yield futures[future], future.result()


def _scan_part(shard: File, options: IndexOptions, path: str) -> str | None:
    """Scans a shard and writes the result to `path`; returns the error message, if any."""
    try:
        result = scan(shard, options)
    except UserError as error:
        return str(error)
    rest = {
        "accounting": result.counts.as_dict(),
        "classes": sorted(result.classes),
        "columns": sorted(result.columns),
    }
    buffer = io.BytesIO()
    np.savez_compressed(buffer, rows=result.rows, rest=np.array(json.dumps(rest)))
    write_file(path, buffer.getvalue())
    return None


def _load_part(path: str) -> Scan:
    with np.load(io.BytesIO(read_file(path)), allow_pickle=False) as part:
        rest = json.loads(str(part["rest"]))
        counts = SourceCounts(**rest["accounting"])
        return Scan(part["rows"], counts, set(rest["classes"]), set(rest["columns"]))


def _merge(shards: list[File], options: IndexOptions, parts: list[str], target: str) -> None:
    """Writes the index from its parts, then removes the parts."""
    counts, examples = SourceCounts(), []
    classes: set[str] = set()
    columns: set[str] = set()
    digest = hashlib.sha256(json.dumps([_IDENTITY_VERSION, encode(options)]).encode())
    with atomic_file(join(target, "rows.bin")) as path, open(path, "wb") as rows:
        for shard, part_path in zip(shards, parts, strict=True):
            part = _load_part(part_path)
            content = part.rows.astype(ROW).tobytes()
            rows.write(content)
            digest.update(f"{shard.name} {shard.size} {len(part.rows)}\n".encode() + content)
            examples.append(len(part.rows))
            counts.merge(part.counts)
            classes |= part.classes
            columns |= part.columns
    index = {
        "width": 1 + len(options.members),
        "examples": examples,
        "accounting": counts.as_dict(),
        "classes": sorted(classes),
        "columns": sorted(columns),
        "identity": digest.hexdigest(),
    }
    write_file(join(target, "index.json"), json.dumps(index).encode())
    with contextlib.suppress(OSError):  # another host may still write into it
        remove_folder(join(target, "parts"))
