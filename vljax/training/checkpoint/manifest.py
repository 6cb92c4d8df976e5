"""The manifest of a checkpoint: size and SHA-256 digest of every file, written last.

A step folder without a valid manifest is half-written and is never restored. Digests are needed
because Orbax does not notice a changed byte in an array: it restores wrong numbers without an
error. So every digest is checked before anything is read.

Nothing here needs a rename, because object stores have none: a checkpoint is complete once the one
file `manifest.json` exists.
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
from vljax.files import LFS_REMEDY, is_lfs_pointer
from vljax.training.checkpoint import storage

NAME = "manifest.json"

logger = logging.getLogger(__name__)


# --- Steps of a workdir ---------------------------------------------------------------------------


def step_folder(workdir: epath.PathLike, step: int) -> epath.Path:
    """The folder of the checkpoint of a step."""
    return storage.absolute(workdir) / "checkpoints" / str(step)


def all_steps(workdir: epath.PathLike) -> list[int]:
    """The steps that have a folder, oldest first, including half-written ones."""
    parent = storage.absolute(workdir) / "checkpoints"
    if not parent.is_dir():
        return []
    names = (child.name for child in parent.iterdir())
    return sorted(int(name) for name in names if name.isdecimal() and str(int(name)) == name)


def complete_steps(workdir: epath.PathLike) -> list[int]:
    """The steps whose saves were completed, oldest first; `verify` finds later damage."""
    return [step for step in all_steps(workdir) if (step_folder(workdir, step) / NAME).exists()]


def newest_intact_step(workdir: epath.PathLike, report: Callable[[int, str], None]) -> int | None:
    """The newest step whose checkpoint is intact, or None; reads all files of newer ones.

    Args:
      workdir: local or remote.
      report: called with the step and the first problem of each newer checkpoint that is skipped.
    """
    for step in reversed(all_steps(workdir)):
        problems = verify(step_folder(workdir, step))
        if not problems:
            return step
        more = f" and {len(problems) - 1} more" if len(problems) > 1 else ""
        report(step, problems[0] + more)
    return None


def find_intact(path: str) -> epath.Path:
    """The folder of an intact checkpoint; logs a warning for each damaged one that is skipped.

    Args:
      path: a checkpoint folder; or a workdir or its folder `checkpoints`, which mean its newest
        intact checkpoint.

    Raises:
      UserError: if there is no intact checkpoint, or the given folder is damaged.
    """
    folder = storage.absolute(path)
    if (folder / NAME).exists():
        problems = verify(folder)
        if problems:
            raise UserError(f"{folder}: {problems[0]}")
        return folder

    if folder.name == "checkpoints" and not (folder / "checkpoints").exists():
        path = str(folder.parent)

    def warn(step: int, problem: str) -> None:
        logger.warning("checkpoint %s is skipped: %s", step_folder(path, step), problem)

    step = newest_intact_step(path, warn)
    if step is None:
        raise UserError(f"{path}: no intact checkpoint")
    return step_folder(path, step)


# --- One checkpoint -------------------------------------------------------------------------------


def write(folder: epath.Path) -> None:
    """Completes a checkpoint: writes the manifest of all other files in its folder."""
    paths = {path.relative_to(folder).as_posix(): path for path in _walk(folder)}
    paths.pop(NAME, None)
    with ThreadPoolExecutor() as pool:
        entries = dict(zip(paths, pool.map(_entry, paths.values()), strict=True))
    storage.write(folder / NAME, _render(int(folder.name), entries))


def verify(path: epath.PathLike) -> list[str]:
    """The problems of a checkpoint folder, one line per file; reads every byte."""
    folder = storage.absolute(path)
    problems, entries = _size_problems(folder)
    if problems:
        return problems
    with ThreadPoolExecutor() as pool:
        found = pool.map(lambda item: _digest_problem(folder, *item), entries.items())
        return [problem for problem in found if problem]


def looks_intact(path: epath.PathLike) -> bool:
    """Whether all files exist in their full size; does not read them, unlike `verify`."""
    return not _size_problems(storage.absolute(path))[0]


def read_file(path: epath.PathLike, name: str) -> bytes:
    """The content of one file of a checkpoint, checked against its digest.

    Args:
      path: folder of the checkpoint.
      name: relative, such as `recipe.json`.

    Raises:
      UserError: if the checkpoint is half-written or damaged, or has no such file.
    """
    folder = storage.absolute(path)
    entries = _read_entries(folder)
    if name not in entries:
        raise UserError(f"checkpoint {folder} has no file {name!r}{suggest(name, entries)}")
    content = _read(folder / name)
    if content is None or hashlib.sha256(content).hexdigest() != entries[name]["sha256"]:
        raise UserError(f"checkpoint {folder} is damaged: {name}; use another one")
    return content


def file_names(path: epath.PathLike) -> list[str]:
    """The files of a checkpoint. Raises UserError if it is half-written."""
    return sorted(_read_entries(storage.absolute(path)))


def _size_problems(folder: epath.Path) -> tuple[list[str], dict[str, Any]]:
    """The problems that show without reading the files, and the entries of the manifest."""
    try:
        entries = _read_entries(folder)
    except UserError as error:
        return [str(error)], {}
    problems = [
        problem
        for name, entry in entries.items()
        if (problem := _size_problem(folder, name, entry))
    ]
    return problems, entries


def _read_entries(folder: epath.Path) -> dict[str, Any]:
    raw = _read(folder / NAME)
    if raw is None:
        raise UserError(f"{folder} is half-written: it has no {NAME}")
    try:
        entries: dict[str, Any] = json.loads(raw)["files"]
        # Compare with a new rendering, so that no changed byte goes unnoticed. It contains the
        # step, so that a copied folder is not taken for the checkpoint of another step.
        valid = raw == _render(int(folder.name), entries) and all(map(_is_inside, entries))
    except (ValueError, KeyError, TypeError):
        valid = False
    if not valid:
        raise UserError(f"{folder / NAME} is damaged")
    return entries


def _is_inside(name: str) -> bool:
    """Whether a name stays inside the folder. Exports write files under these names elsewhere."""
    path = PurePosixPath(name)
    return not path.is_absolute() and ".." not in path.parts


def _render(step: int, entries: dict[str, Any]) -> bytes:
    body = json.dumps(entries, sort_keys=True)
    digest = hashlib.sha256(body.encode()).hexdigest()
    manifest = {"version": 1, "step": step, "sha256": digest, "files": entries}
    return (json.dumps(manifest, indent=1, sort_keys=True) + "\n").encode()


def _size_problem(folder: epath.Path, name: str, entry: dict[str, Any]) -> str | None:
    path = folder / name
    if not path.exists():
        return f"{name} is missing"
    found = path.stat().length
    if found == entry["bytes"]:
        return None
    if is_lfs_pointer(_read(path) or b"" if found < entry["bytes"] and found < 1024 else b""):
        return f"{name}: {LFS_REMEDY}"
    return f"{name} has {found} of {entry['bytes']} bytes"


def _digest_problem(folder: epath.Path, name: str, entry: dict[str, Any]) -> str | None:
    try:
        digest = _digest(folder / name)
    except OSError as error:
        return f"{name} cannot be read ({storage.describe(error)})"
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
