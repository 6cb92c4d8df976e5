"""The files that paths, patterns, folders and lists name, local or remote."""

from __future__ import annotations

import glob
import os
import re
from dataclasses import dataclass
from itertools import product, takewhile
from typing import Any

from vljax.config import UserError
from vljax.data.files import filesystem, is_remote, reason

_STAMPS = ("etag", "ETag", "md5Hash", "generation", "mtime", "LastModified", "created")

_Info = tuple[int, str]  # size and stamp


@dataclass(frozen=True)
class File:
    """A file as it was when it was listed.

    Attributes:
      path: local path or URL.
      name: relative to what all files of its set share, free of machine paths.
      size: bytes.
      stamp: changes when the file is written anew: modification time or ETag.
    """

    path: str
    name: str
    size: int
    stamp: str


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
