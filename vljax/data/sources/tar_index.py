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
import hashlib
import io
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from concurrent.futures import as_completed
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import UInt32

from vljax.config import UserError, encode
from vljax.data.files import (
    File,
    filesystem,
    is_remote,
    join,
    partial_name,
    read_file,
    read_range,
    write_file,
)
from vljax.data.records import Progress, SourceCounts
from vljax.data.sources.tar_scan import Scan, Wanted, scan
from vljax.data.worker_pool import usable_cores, worker_pool


@dataclass(frozen=True)
class TarIndex:
    """An index on local disk."""

    folder: str
    """Where it is."""
    width: int
    """How many members each row tells of."""
    starts: np.ndarray
    """Number of the first example of each shard, and of all examples."""
    accounting: SourceCounts
    """What was counted."""
    classes: tuple[str, ...]
    """Values that occur as class."""
    columns: tuple[str, ...]
    """What can be chosen."""
    identity: str
    """A hash of names, sizes and places of everything."""

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


# --- Builds the index of a set of tar shards: in parallel, shard by shard, to be gone on with -----

# Goes up when an index is made otherwise from the same shards.
_VERSION = 1
_WORTH_PROCESSES = 2**27  # bytes of shards: processes take seconds to start
ROW = np.dtype("<u4")


def index_name(shards: list[File], wanted: Wanted) -> str:
    """The name of the folder for an index: a hash of what it depends on."""
    content = [
        _VERSION,
        [[shard.name, shard.size, shard.stamp] for shard in shards],
        encode(wanted),
    ]
    return _hash(content)


def _hash(content: Any) -> str:
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:32]


def build(
    shards: list[File], wanted: Wanted, target: str, workers: int | None, progress: Progress
) -> None:
    """Scans the shards that no part is kept of, and puts the parts together.

    Args:
      shards: as they are now.
      wanted: what the index is made for.
      target: folder of the index, local or remote.
      workers: processes; None for as many as there are cores.
      progress: is told the shards done and all there are.

    Raises:
      UserError: if shards are damaged: the first of them, once all others are scanned.
    """
    parts = join(target, "parts")
    part_of = {shard: join(parts, f"{_part_name(shard, wanted)}.npz") for shard in shards}
    existing = _existing(parts)
    todo = [shard for shard in shards if os.path.basename(part_of[shard]) not in existing]
    done = len(shards) - len(todo)
    progress(done, len(shards))
    errors: dict[str, str] = {}
    for shard, error in _scanned(todo, wanted, part_of, workers):
        done += 1
        if error is not None:
            errors[shard.path] = error
        progress(done, len(shards))
    if errors:
        first = next(errors[shard.path] for shard in shards if shard.path in errors)
        more = f" (and {len(errors) - 1} more shards)" if len(errors) > 1 else ""
        raise UserError(f"{first}{more}")
    _merge(shards, wanted, [part_of[shard] for shard in shards], target)


def _part_name(shard: File, wanted: Wanted) -> str:
    return _hash([_VERSION, shard.name, shard.size, shard.stamp, encode(wanted)])


def _existing(parts: str) -> set[str]:
    if not is_remote(parts):
        return set(os.listdir(parts)) if os.path.isdir(parts) else set()
    system, path = filesystem(parts)
    try:
        return {os.path.basename(name) for name in system.ls(path, detail=False)}
    except FileNotFoundError:
        return set()


def _scanned(
    todo: list[File], wanted: Wanted, part_of: dict[File, str], workers: int | None
) -> Iterator[tuple[File, str | None]]:
    """Scans shards and keeps their parts; yields each as it is done, with what was wrong."""
    workers = min(workers or usable_cores(), len(todo))
    small = sum(shard.size for shard in todo) < _WORTH_PROCESSES
    if workers <= 1 or small or todo[0].path.startswith("memory://"):
        for shard in todo:
            yield shard, _scan_part(shard, wanted, part_of[shard])
        return
    with worker_pool(workers, "indexed shards") as pool:
        futures = {pool.submit(_scan_part, s, wanted, part_of[s]): s for s in todo}
        for future in as_completed(futures):
            yield futures[future], future.result()


def _scan_part(shard: File, wanted: Wanted, path: str) -> str | None:
    """Scans one shard into a file; returns what is wrong with the shard."""
    try:
        result = scan(shard, wanted)
    except UserError as error:
        return str(error)
    rest = {
        "accounting": result.accounting.as_dict(),
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
        accounting = SourceCounts(**rest["accounting"])
        return Scan(part["rows"], accounting, set(rest["classes"]), set(rest["columns"]))


def _merge(shards: list[File], wanted: Wanted, parts: list[str], target: str) -> None:
    """Writes the index from its parts, and removes these."""
    accounting, examples = SourceCounts(), []
    classes: set[str] = set()
    columns: set[str] = set()
    digest = hashlib.sha256(json.dumps([_VERSION, encode(wanted)]).encode())
    with _writing(join(target, "rows.bin")) as rows:
        for shard, path in zip(shards, parts, strict=True):
            part = _load_part(path)
            content = part.rows.astype(ROW).tobytes()
            rows.write(content)
            digest.update(f"{shard.name} {shard.size} {len(part.rows)}\n".encode() + content)
            examples.append(len(part.rows))
            accounting.add(part.accounting)
            classes |= part.classes
            columns |= part.columns
    index = {
        "width": 1 + len(wanted.members),
        "examples": examples,
        "accounting": accounting.as_dict(),
        "classes": sorted(classes),
        "columns": sorted(columns),
        "identity": digest.hexdigest(),
    }
    write_file(join(target, "index.json"), json.dumps(index).encode())
    _remove_tree(join(target, "parts"))


@contextlib.contextmanager
def _writing(path: str) -> Iterator[Any]:
    """A file that appears once it is complete: another machine may read it already."""
    if is_remote(path):
        system, inner = filesystem(path)
        with system.open(inner, "wb") as file:
            yield file
        return
    partial = partial_name(path)
    with open(partial, "wb") as file:
        yield file
    os.replace(partial, path)


def _remove_tree(folder: str) -> None:
    if is_remote(folder):
        system, path = filesystem(folder)
        system.rm(path, recursive=True)
    else:
        shutil.rmtree(folder, ignore_errors=True)  # another host may still write into it
