"""Local and remote files: where they are, what they hold, and writing them."""

from __future__ import annotations

import contextlib
import errno
import functools
import os
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from vljax.config import REMOTE_PACKAGES, UserError

# memory:// and file:// need no package beside fsspec.
_SCHEMES = (*REMOTE_PACKAGES, "memory", "file")
_OPEN_FILES = 256


def is_remote(path: str) -> bool:
    """Whether a path is a URL."""
    return "://" in path


def expanded(path: str) -> str:
    """A path with the home folder in place of `~`; a URL as it is."""
    return path if is_remote(path) else os.path.expanduser(path)


def filesystem(url: str) -> tuple[Any, str]:
    """The fsspec file system of a URL, and the path in it.

    Raises:
      UserError: if it is an unknown kind of URL, or the package for it is missing.
    """
    scheme = url.partition("://")[0]
    if scheme not in _SCHEMES:
        known = ", ".join(f"{name}://" for name in REMOTE_PACKAGES)
        raise UserError(f"{url}: unknown kind of address; known: {known}")
    try:
        import fsspec

        system, path = fsspec.core.url_to_fs(url)
    except ImportError as error:
        package = REMOTE_PACKAGES.get(scheme, "fsspec")
        raise UserError(f"{url}: {scheme}:// needs a package: pip install {package}") from error
    return system, path


def open_file(path: str) -> Any:
    """A local or remote file as a binary stream to be read from its beginning on.

    Raises:
      UserError: if it cannot be opened.
    """
    try:
        if not is_remote(path):
            return open(path, "rb")
        system, inner = filesystem(path)
        return system.open(inner, "rb", cache_type="readahead")
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({reason(error)})") from error


def read_range(path: str, stamp: str, start: int, size: int) -> bytes:
    """Part of a file; shorter where the file ends. Safe to call from threads.

    Args:
      path: local path or URL.
      stamp: of the file as it was listed.
      start: first byte.
      size: number of bytes.

    Raises:
      OSError: if it cannot be read.
    """
    if is_remote(path):
        system, inner = filesystem(path)
        try:
            content: bytes = system.cat_file(inner, start=start, end=start + size)
        except Exception as error:  # remote file systems raise errors of their own
            raise OSError(reason(error)) from error
        return content
    # Held until it is read: of two made at once the cache keeps one, and the other closes its file.
    descriptor = _descriptor(path, stamp)
    return os.pread(descriptor.number, size, start)


class _Descriptor:
    """An open file; closed once neither the cache nor a thread holds it."""

    def __init__(self, path: str):
        self.number = os.open(path, os.O_RDONLY | os.O_CLOEXEC)

    def __del__(self) -> None:
        if hasattr(self, "number"):
            os.close(self.number)


@functools.lru_cache(maxsize=_OPEN_FILES)
def _descriptor(path: str, stamp: str) -> _Descriptor:
    """The stamp tells a file from the one that stood there before."""
    return _Descriptor(path)


@contextlib.contextmanager
def remote_errors(url: str) -> Iterator[None]:
    """Turns the errors that remote file systems have of their own into OSErrors that name a URL."""
    try:
        yield
    except OSError:
        raise
    except Exception as error:
        raise OSError(errno.EIO, reason(error), url) from error


def read_file(path: str) -> bytes:
    """A whole local or remote file. Raises OSError if it cannot be read."""
    if not is_remote(path):
        return Path(path).expanduser().read_bytes()
    system, inner = filesystem(path)
    with remote_errors(path):
        content: bytes = system.cat_file(inner)
    return content


def read_bytes(path: str) -> bytes:
    """The same for a file that a person named.

    Raises:
      UserError: if it cannot be read, which names the package that is missing if one is.
    """
    try:
        return read_file(path)
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({reason(error)})") from error


def write_file(path: str, content: bytes) -> None:
    """Writes a file that is either there in full or not at all, and its parent folders.

    Raises:
      UserError: if it is an unknown kind of URL, or the package for it is missing.
      OSError: if it cannot be written.
    """
    if is_remote(path):
        system, inner = filesystem(path)
        with remote_errors(path):
            system.pipe_file(inner, content)  # an object appears once it is complete
        return
    partial = Path(partial_name(path))
    partial.parent.mkdir(parents=True, exist_ok=True)
    partial.write_bytes(content)
    partial.replace(path)


PARTIAL = ".partial"
"""How names of files end that are not complete."""


def partial_name(path: str) -> str:
    """A name beside a file for what is not complete, that no other process or host uses."""
    return f"{path}.{uuid.uuid4().hex}{PARTIAL}"


def parent(path: str) -> str:
    """The folder of a local or remote file."""
    return path.rpartition("/")[0] if is_remote(path) else os.path.dirname(path) or "."


def base_name(path: str) -> str:
    """The last part of a local path or URL."""
    return path.rpartition("/")[2]


def join(folder: str, *names: str) -> str:
    """A path below a local or remote folder."""
    return "/".join((folder.rstrip("/"), *names))


def reason(error: BaseException) -> str:
    """What went wrong, in the words of the system where it has some."""
    return str(getattr(error, "strerror", None) or error or type(error).__name__)
