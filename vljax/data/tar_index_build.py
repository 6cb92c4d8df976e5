"""Builds the index of a set of tar shards: in parallel, shard by shard, to be gone on with."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import shutil
from collections.abc import Iterator
from concurrent.futures import as_completed
from typing import Any

import numpy as np

from vljax.config import UserError, encode
from vljax.data.accounting import Progress, SourceCounts
from vljax.data.file_sets import File
from vljax.data.files import filesystem, is_remote, join, partial_name, read_file, write_file
from vljax.data.tar_scan import Scan, Wanted, scan
from vljax.data.worker_pool import usable_cores, worker_pool

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
