"""Files that appear under their names once they are complete."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator

from vljax.data.files import PARTIAL, filesystem, is_remote, partial_name, remote_errors


@contextlib.contextmanager
def completed(path: str) -> Iterator[str]:
    """Where to write what then appears at a local or remote path, in full or not at all.

    A local file is on the disk before it has its name, so that a crash of the machine leaves none
    that only looks complete.
    """
    if is_remote(path):
        with tempfile.TemporaryDirectory(prefix="vljax-") as folder:
            local = os.path.join(folder, os.path.basename(path))
            yield local
            system, inner = filesystem(path)
            with remote_errors(path):
                system.put_file(local, inner)  # an object appears once it is complete
        return
    partial = partial_name(path)
    try:
        yield partial
        _to_disk(partial)
        os.replace(partial, path)
    except OSError as error:
        if error.filename is None and error.errno is not None:  # of writing, as on a full disk
            raise OSError(error.errno, os.strerror(error.errno), path) from error
        raise
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(partial)
    _to_disk(os.path.dirname(path))


def write(path: str, content: bytes) -> None:
    """A whole file by `completed`, and the folder for it."""
    make_folder(os.path.dirname(path))
    with completed(path) as place, open(place, "wb") as file:
        file.write(content)


def make_folder(folder: str) -> None:
    """Creates a folder and those above; object stores need none."""
    if is_remote(folder):
        system, path = filesystem(folder)
        with remote_errors(folder):
            system.makedirs(path, exist_ok=True)
    else:
        os.makedirs(folder, exist_ok=True)


def sizes(folder: str) -> dict[str, int]:
    """Name and bytes of what lies in a folder, complete or not; empty if it is not there."""
    if is_remote(folder):
        system, path = filesystem(folder)
        system.invalidate_cache(path)  # what workers elsewhere write, a listing kept here has not
        try:
            with remote_errors(folder):
                entries = system.ls(path, detail=True)
        except FileNotFoundError:
            return {}
        inside = [e for e in entries if e["name"].strip("/") != path.strip("/")]
        return {os.path.basename(e["name"].rstrip("/")): e["size"] or 0 for e in inside}
    if not os.path.isdir(folder):
        return {}
    return {entry.name: entry.stat().st_size for entry in os.scandir(folder)}


def remove_partial(folder: str) -> None:
    """Removes what a process that was killed left of files in a local folder."""
    for name in [] if is_remote(folder) else sizes(folder):
        if name.endswith(PARTIAL):
            os.unlink(os.path.join(folder, name))


def _to_disk(path: str) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
