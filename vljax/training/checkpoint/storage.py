"""File operations in a workdir, local or remote: write, remove, check for space and permission."""

from __future__ import annotations

import errno
import os
import shutil
import time
from collections.abc import Iterator
from typing import Any

import jax
from etils import epath

from vljax.config import UserError
from vljax.files import is_remote, write_file

_DISK_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_DISK_FULL_TEXTS = tuple(os.strerror(code) for code in _DISK_FULL)
_REMOVE_ATTEMPTS = 5


def is_local(path: epath.PathLike) -> bool:
    """Whether a path is on a mounted file system, not in remote storage."""
    return not is_remote(os.fspath(path))


def absolute(path: epath.PathLike) -> epath.Path:
    """The absolute path. Orbax needs it, and it stays valid if the working directory changes."""
    if is_local(path):
        return epath.Path(os.path.abspath(os.path.expanduser(path)))
    return epath.Path(path)


def make_writable(folder: epath.Path, process: int) -> None:
    """Creates a folder and checks that files can be written to it.

    Args:
      folder: local or remote.
      process: index of this process, so that processes that share the folder do not collide.

    Raises:
      UserError: if it cannot be created or written to.
    """
    probe = folder / f".writable-{process}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe.write_bytes(b"x")
        probe.unlink()
    except Exception as error:  # remote file systems raise their own types
        raise UserError(
            f"cannot write to the folder {folder} ({describe(error)}); choose another workdir"
            " or make this one writable"
        ) from error


def write(path: epath.Path, content: bytes) -> None:
    """Writes a file and creates its parent folders; the file survives a crash of the machine.

    The file appears complete or not at all; an object in remote storage is atomic by itself.
    """
    if is_local(path):
        write_file(os.fspath(path), content)
    else:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)


def remove(folder: epath.Path) -> None:
    """Removes a folder if it exists.

    Raises:
      OSError: if part of it is left.
    """
    # After a failed save, threads of Orbax may still write files while the folder is removed.
    for attempt in range(_REMOVE_ATTEMPTS):
        if attempt:
            time.sleep(0.2)
        try:
            folder.rmtree(missing_ok=True)
        except OSError:
            if attempt == _REMOVE_ATTEMPTS - 1:
                raise
        else:
            return


def required_bytes(state: Any) -> int:
    """Total size of all arrays of a state (or of their shapes), over all devices."""
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(state))


def check_space(workdir: epath.PathLike, checkpoint_bytes: int) -> str | None:
    """A warning if the disk of a local workdir has no room for two checkpoints, else None.

    Both have to fit because an old checkpoint is removed only after the next one is complete.

    Args:
      workdir: need not exist yet.
      checkpoint_bytes: size of one checkpoint, see `required_bytes`.

    Raises:
      UserError: if there is not enough room for one.
    """
    if not is_local(workdir):
        return None
    path = absolute(workdir)
    while not path.exists():
        path = path.parent
    free = shutil.disk_usage(path).free
    if free >= 2 * checkpoint_bytes:
        return None
    wanted = f"two checkpoints need {_size(2 * checkpoint_bytes)}"
    text = f"the disk of the workdir {workdir} has {_size(free)} free, {wanted}"
    if free < checkpoint_bytes:
        raise UserError(f"{text}; free some space or choose another workdir")
    return text


def disk_full_message(error: BaseException) -> str | None:
    """The system's message if an error, or one of its causes, means a full disk, else None."""
    for cause in _causes(error):
        if isinstance(cause, OSError) and cause.errno in _DISK_FULL:
            return os.strerror(cause.errno)
        # TensorStore reports system errors as ValueError, with their text only.
        for text in _DISK_FULL_TEXTS:
            if text in str(cause):
                return text
    return None


def describe(error: BaseException) -> str:
    """An error in one short line."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    """An error and all errors that led to it."""
    while error is not None:
        yield error
        if isinstance(error, BaseExceptionGroup):
            for inner in error.exceptions:
                yield from _causes(inner)
        error = error.__cause__ or error.__context__


def _size(count: int) -> str:
    """A number of bytes as text with three significant digits."""
    value, units = float(count), iter(("bytes", "kB", "MB", "GB"))
    unit = next(units)
    while value >= 1000 and (larger := next(units, None)):
        value, unit = value / 1000, larger
    return f"{value:.3g} {unit}" if value < 1000 else f"{value:,.0f} {unit}"
