"""The folder that a run writes into: can it be written, is there room, and how things leave it."""

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

_NO_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_NO_ROOM_TEXTS = tuple(os.strerror(code) for code in _NO_ROOM)


def is_local(path: epath.PathLike) -> bool:
    """Whether a path lies on a mounted file system rather than in remote storage."""
    return "://" not in os.fspath(path)


def absolute(path: epath.PathLike) -> epath.Path:
    """The path in the form that Orbax and later changes of the working folder need."""
    if is_local(path):
        return epath.Path(os.path.abspath(os.path.expanduser(path)))
    return epath.Path(path)


def make_writable(folder: epath.Path, process: int) -> None:
    """Creates a folder and proves that files can be written to it.

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
    except Exception as error:  # remote file systems raise errors of their own
        raise UserError(
            f"cannot write to the folder {folder} ({reason(error)}); choose another workdir"
            " or make this one writable"
        ) from error


def write(path: epath.Path, content: bytes) -> None:
    """Writes a file and its parent folders; once this returns, a crash of the machine keeps it.

    It is there in full or not at all: an object appears once it is complete, and so does a local
    file, whose name a killed process would otherwise leave behind without its content.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    if not is_local(path):
        path.write_bytes(content)
        return
    partial = f"{path}.partial"
    with open(partial, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    os.replace(partial, path)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def remove(folder: epath.Path) -> None:
    """Removes a folder that other threads may still be writing to, if it is there.

    Raises:
      OSError: if some of it is left.
    """
    for attempt in range(5):
        if attempt:
            time.sleep(0.2)
        try:
            folder.rmtree(missing_ok=True)
        except OSError:
            if attempt == 4:
                raise
        else:
            return


def required_bytes(state: Any) -> int:
    """The size of all arrays of a state (or their shapes) together, over all devices."""
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(state))


def check_space(workdir: epath.PathLike, checkpoint_bytes: int) -> str | None:
    """A warning if the disk of a local workdir has no room for two checkpoints, else None.

    Two, since an old checkpoint only goes once the next one is complete.

    Args:
      workdir: need not exist yet.
      checkpoint_bytes: size of one checkpoint, see `required_bytes`.

    Raises:
      UserError: if there is not even room for one.
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


def no_room(error: BaseException) -> str | None:
    """What the system says if an error, or one that led to it, is about a full disk, else None."""
    for cause in _causes(error):
        if isinstance(cause, OSError) and cause.errno in _NO_ROOM:
            return os.strerror(cause.errno)
        # TensorStore reports errors of the system as ValueError, by text.
        for text in _NO_ROOM_TEXTS:
            if text in str(cause):
                return text
    return None


def reason(error: BaseException) -> str:
    """An error in a few words on one line."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        if isinstance(error, BaseExceptionGroup):
            for inner in error.exceptions:
                yield from _causes(inner)
        error = error.__cause__ or error.__context__


def _size(count: int) -> str:
    value, units = float(count), iter(("bytes", "kB", "MB", "GB"))
    unit = next(units)
    while value >= 1000 and (larger := next(units, None)):
        value, unit = value / 1000, larger
    return f"{value:.3g} {unit}" if value < 1000 else f"{value:,.0f} {unit}"
