"""Local and remote files: where they are, what they hold, and writing them."""

from __future__ import annotations

import contextlib
import errno
import functools
import glob
import os
import re
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product, takewhile
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


# --- The files that paths, patterns, folders and lists name, local or remote ----------------------

_STAMPS = ("etag", "ETag", "md5Hash", "generation", "mtime", "LastModified", "created")

_Info = tuple[int, str]  # size and stamp


@dataclass(frozen=True)
class File:
    """A file as it was when it was listed."""

    path: str
    """Local path or URL."""
    name: str
    """Relative to what all files of its set share, free of machine paths."""
    size: int
    """Bytes."""
    stamp: str
    """Changes when the file is written anew: modification time or ETag."""


def expand(paths: str | tuple[str, ...], suffixes: tuple[str, ...], field: str) -> list[File]:
    """The files that are meant, each once, in the order of the list and sorted in folders.

    Args:
      paths: each a file, a folder, or a pattern with `*`, `?`, `[...]`, `{a,b}` or `{000..123}`.
      suffixes: endings of the files that are taken from a folder, such as ".tar".
      field: what messages name.

    Raises:
      UserError: if a path names nothing, a folder has no such file, or a package is missing.
    """
    infos: dict[str, _Info] = {}
    listings = _Listings()
    for path in (paths,) if isinstance(paths, str) else paths:
        for plain in braces(path):
            found = listings.find(plain, suffixes) if is_remote(plain) else _local(plain, suffixes)
            if not found:
                kinds = " or ".join(suffixes)
                raise UserError(f"{field}: no file {plain}, nor a folder with {kinds} files there")
            infos |= found
    folders = {path.rpartition("/")[0] for path in infos}
    # Not os.path.commonpath, which mistakes the two slashes of a URL for one.
    levels = zip(*(folder.split("/") for folder in folders), strict=False)
    skipped = sum(len(level[0]) + 1 for level in takewhile(lambda x: len(set(x)) == 1, levels))
    return [File(path, path[skipped:], size, stamp) for path, (size, stamp) in infos.items()]


def braces(pattern: str) -> list[str]:
    """The pattern with `{a,b}` and `{000..123}` written out; a range keeps its leading zeros."""
    parts = re.split(r"\{([^{}]*)\}", pattern)
    choices = [_choices(part) if i % 2 else [part] for i, part in enumerate(parts)]
    return ["".join(chosen) for chosen in product(*choices)]


def _choices(inside: str) -> list[str]:
    if bounds := re.fullmatch(r"(\d+)\.\.(\d+)", inside):
        first, last = bounds.groups()
        if int(last) < int(first):
            raise UserError(f"{{{inside}}}: a range must not end before it begins")
        return [str(i).zfill(len(first)) for i in range(int(first), int(last) + 1)]
    return inside.split(",") if "," in inside else [f"{{{inside}}}"]


def _local(path: str, suffixes: tuple[str, ...]) -> dict[str, _Info]:
    path = os.path.abspath(os.path.expanduser(path))
    if os.path.isdir(path):
        found = sorted(entry.path for entry in os.scandir(path) if entry.name.endswith(suffixes))
    else:
        found = [path] if os.path.exists(path) else sorted(glob.glob(path))
    try:
        status = {name: os.stat(name) for name in found}
    except OSError as error:
        raise UserError(f"{error.filename}: cannot be read ({error.strerror})") from error
    return {name: (s.st_size, str(s.st_mtime_ns)) for name, s in status.items()}


class _Listings:
    """Remote folders, each listed once: asking for thousands of shards one by one takes minutes."""

    def __init__(self) -> None:
        self._entries: dict[str, list[dict[str, Any]]] = {}

    def find(self, url: str, suffixes: tuple[str, ...]) -> dict[str, _Info]:
        """The files that a URL without braces names: a file, a pattern or a folder."""
        system, path = filesystem(url)
        try:
            if glob.has_magic(path):
                infos = list(system.glob(path, detail=True).values())
            else:
                infos = [i for i in self._list(system, path) if _same(i["name"], path)]
                if infos and infos[0]["type"] == "directory":
                    inside = self._list(system, f"{path.rstrip('/')}/x")
                    infos = [info for info in inside if info["name"].endswith(suffixes)]
        except Exception as error:  # remote file systems raise errors of their own
            raise UserError(f"{url}: cannot be listed ({reason(error)})") from error
        files = sorted((i for i in infos if i["type"] == "file"), key=lambda i: i["name"])
        return {system.unstrip_protocol(i["name"]): (i["size"], _stamp(i)) for i in files}

    def _list(self, system: Any, path: str) -> list[dict[str, Any]]:
        """What lies in the folder that holds a path."""
        folder = path.rstrip("/").rpartition("/")[0]
        key = system.unstrip_protocol(folder)
        if key not in self._entries:
            try:
                self._entries[key] = system.ls(folder, detail=True)
            except FileNotFoundError:
                self._entries[key] = []
        return self._entries[key]


def _same(left: str, right: str) -> bool:
    return left.strip("/") == right.strip("/")


def _stamp(info: dict[str, Any]) -> str:
    return next((str(info[key]) for key in _STAMPS if info.get(key)), "")
