"""The manifest of a checkpoint: size and digest of every file, written last.

Orbax loads a flipped byte as silent garbage, so nothing is read from a checkpoint before its
digests agree. A folder without a valid manifest is half-written.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import PurePosixPath
from typing import Any

from etils import epath

from vljax.config import UserError, suggest
from vljax.training.checkpoint import storage

NAME = "manifest.json"

logger = logging.getLogger(__name__)


def step_folder(workdir: epath.PathLike, step: int) -> epath.Path:
    """Where the checkpoint of a step lies."""
    return storage.absolute(workdir) / "checkpoints" / str(step)


def folders(workdir: epath.PathLike) -> list[int]:
    """The steps that have a folder, half-written ones among them, oldest first."""
    parent = storage.absolute(workdir) / "checkpoints"
    if not parent.is_dir():
        return []
    names = (child.name for child in parent.iterdir())
    return sorted(int(name) for name in names if name.isdecimal() and str(int(name)) == name)


def steps(workdir: epath.PathLike) -> list[int]:
    """The steps whose checkpoints were once complete, oldest first; see `verify` for damage."""
    return [step for step in folders(workdir) if (step_folder(workdir, step) / NAME).exists()]


def write(folder: epath.Path) -> None:
    """Completes a checkpoint: writes the manifest of all other files in its folder."""
    paths = {path.relative_to(folder).as_posix(): path for path in _walk(folder)}
    paths.pop(NAME, None)
    with ThreadPoolExecutor() as pool:
        entries = dict(zip(paths, pool.map(_entry, paths.values()), strict=True))
    storage.write(folder / NAME, _render(int(folder.name), entries))


def verify(path: epath.PathLike) -> list[str]:
    """What is wrong with the checkpoint in a folder, a line a file; reads every byte of it."""
    folder = storage.absolute(path)
    problems, entries = _structure(folder)
    if problems:
        return problems
    with ThreadPoolExecutor() as pool:
        found = pool.map(lambda item: _digest_problem(folder, *item), entries.items())
        return [problem for problem in found if problem]


def looks_intact(path: epath.PathLike) -> bool:
    """Whether all files are there in their full size; does not read them, see `verify`."""
    return not _structure(storage.absolute(path))[0]


def newest_intact(workdir: epath.PathLike, report: Callable[[int, str], None]) -> int | None:
    """The newest step whose checkpoint is intact.

    Args:
      workdir: local or remote.
      report: is told the step and the first problem of each newer checkpoint that is passed over.
    """
    for step in reversed(folders(workdir)):
        problems = verify(step_folder(workdir, step))
        if not problems:
            return step
        more = f" and {len(problems) - 1} more" if len(problems) > 1 else ""
        report(step, problems[0] + more)
    return None


def newest(path: str) -> epath.Path:
    """The folder of an intact checkpoint; a damaged one that is passed over is logged.

    Args:
      path: that folder, or a workdir: its newest intact one.

    Raises:
      UserError: if there is none, or the folder is damaged.
    """
    folder = storage.absolute(path)
    if (folder / NAME).exists():
        problems = verify(folder)
        if problems:
            raise UserError(f"{folder}: {problems[0]}")
        return folder

    def passed_over(step: int, problem: str) -> None:
        logger.warning("checkpoint %s is passed over: %s", step_folder(path, step), problem)

    step = newest_intact(path, passed_over)
    if step is None:
        raise UserError(f"{path}: no intact checkpoint")
    return step_folder(path, step)


def read_file(path: epath.PathLike, name: str) -> bytes:
    """The content of one file of a checkpoint, checked against its digest.

    Args:
      path: folder of the checkpoint.
      name: relative, such as `recipe.json`.

    Raises:
      UserError: if the checkpoint is half-written or damaged, or has no such file.
    """
    folder = storage.absolute(path)
    entries = _entries(folder)
    if name not in entries:
        raise UserError(f"checkpoint {folder} has no file {name!r}{suggest(name, entries)}")
    content = _read(folder / name)
    if content is None or hashlib.sha256(content).hexdigest() != entries[name]["sha256"]:
        raise UserError(f"checkpoint {folder} is damaged: {name}; use another one")
    return content


def names(path: epath.PathLike) -> list[str]:
    """The files of a checkpoint. Raises UserError if it is half-written."""
    return sorted(_entries(storage.absolute(path)))


def _structure(folder: epath.Path) -> tuple[list[str], dict[str, Any]]:
    """What can be found wrong without reading the files, and the entries of the manifest."""
    try:
        entries = _entries(folder)
    except UserError as error:
        return [str(error)], {}
    problems = [
        problem
        for name, entry in entries.items()
        if (problem := _size_problem(folder, name, entry))
    ]
    return problems, entries


def _entries(folder: epath.Path) -> dict[str, Any]:
    raw = _read(folder / NAME)
    if raw is None:
        raise UserError(f"{folder} is half-written: it has no {NAME}")
    try:
        entries: dict[str, Any] = json.loads(raw)["files"]
        # Rendered again it must be the same, so that no flipped byte goes by.
        valid = raw == _render(int(folder.name), entries) and all(map(_is_below, entries))
    except (ValueError, KeyError, TypeError):
        valid = False
    if not valid:
        raise UserError(f"{folder / NAME} is damaged")
    return entries


def _is_below(name: str) -> bool:
    """Whether a name leads to nothing outside the folder: names are written elsewhere on export."""
    path = PurePosixPath(name)
    return not path.is_absolute() and ".." not in path.parts


def _render(step: int, entries: dict[str, Any]) -> bytes:
    body = json.dumps(entries, sort_keys=True)
    seal = hashlib.sha256(body.encode()).hexdigest()
    manifest = {"version": 1, "step": step, "sha256": seal, "files": entries}
    return (json.dumps(manifest, indent=1, sort_keys=True) + "\n").encode()


def _size_problem(folder: epath.Path, name: str, entry: dict[str, Any]) -> str | None:
    path = folder / name
    if not path.exists():
        return f"{name} is missing"
    found = path.stat().length
    return None if found == entry["bytes"] else f"{name} has {found} of {entry['bytes']} bytes"


def _digest_problem(folder: epath.Path, name: str, entry: dict[str, Any]) -> str | None:
    try:
        digest = _digest(folder / name)
    except OSError as error:
        return f"{name} cannot be read ({storage.reason(error)})"
    return None if digest == entry["sha256"] else f"{name} differs from its digest"


def _entry(path: epath.Path) -> dict[str, Any]:
    return {"bytes": path.stat().length, "sha256": _digest(path)}


def _digest(path: epath.Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _read(path: epath.Path) -> bytes | None:
    try:
        return path.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        return None


def _walk(folder: epath.Path) -> Iterator[epath.Path]:
    for path in sorted(folder.iterdir(), key=os.fspath):
        if path.is_dir():
            yield from _walk(path)
        else:
            yield path
