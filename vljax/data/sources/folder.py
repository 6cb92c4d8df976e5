"""A folder of images, with a sub-folder for each class and captions in text files."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

from vljax.config import UserError
from vljax.data.records import ExampleError, Progress, SourceCounts
from vljax.data.sources.base import (
    ColumnRecords,
    FileSource,
    LastRead,
    class_names_of,
    decoded,
    image_file,
)
from vljax.data.sources.filters import exclusion_reason
from vljax.data.sources.tar_scan import json_member
from vljax.files import (
    encodable,
    error_reason,
    filesystem,
    is_remote,
    join,
    read_file,
    text_lines,
)

_IMAGES = (".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff")


@dataclass(frozen=True)
class Folder(FileSource, name="folder"):
    """Images in a folder; the top-level sub-folder that an image is in is its class.

    Columns are `class`, `path`, and the endings of files beside an image: `dog.txt` has the
    captions of `dog.jpg`, one per line. Files and folders whose names begin with a dot are ignored.

    >>> import pathlib
    >>> for name, text in (("cat/0.jpg", "(jpeg)"), ("cat/0.txt", "asleep"), ("dog/1.jpg", "")):
    ...     path = pathlib.Path("animals", name)
    ...     path.parent.mkdir(parents=True, exist_ok=True)
    ...     _ = path.write_text(text)
    >>> records = Folder("animals").open()
    >>> records[0].captions, records[0].label, records.class_names
    (('asleep',), 0, ('cat', 'dog'))
    """

    captions: tuple[str, ...] = ("txt",)
    """Endings of the files with captions. An image without such a file has no caption."""
    tags: str | None = "class"
    """Column with keywords; by default the class is one."""
    label: str | None = "class"
    """Column with the class; unset it if the sub-folders are not classes."""

    def open(self) -> FolderRecords:
        if not isinstance(self.path, str):
            raise UserError("data.source.path: set --data.source.path to one folder")
        return FolderRecords(self, self.path)

    def open_with_all_columns(self, workers: int | None, progress: Progress) -> FolderRecords:
        if not isinstance(self.path, str):
            return self.open()
        return FolderRecords(self, self.path, all_columns=True)


class FolderRecords(ColumnRecords):
    """The images of a folder, sorted by name; an image is read when it is asked for."""

    def __init__(self, source: Folder, folder: str, *, all_columns: bool = False):
        self._folder = folder if is_remote(folder) else os.path.abspath(os.path.expanduser(folder))
        self._last = LastRead()
        self.counts = SourceCounts(files=1)
        sizes = dict(sorted(_files(self._folder, self.counts)))
        self._text_endings = {
            c
            for c in (*source.annotation_columns, *source.filter_columns)
            if c not in _BUILT_IN_COLUMNS
        }
        images = [name for name in sizes if name.lower().endswith(_IMAGES)]
        self._text_files = _text_files(sizes, images, self._text_endings)
        self._other_files = (
            _files_beside_images(sizes, source.restorable_columns) if all_columns else {}
        )
        self._images = list(self._filtered(source, images))
        if not self._images and not self.counts.left_out:
            raise UserError(f"{folder}: no images ({', '.join(_IMAGES)}) in this folder")
        names = {name for image in self._images if (name := _class(image)) is not None}
        # Folder names that are numbers are names, not indices: "7" need not be the eighth class.
        classes = class_names_of(names) or tuple(sorted(names))
        super().__init__(source, classes if source.label == "class" else ())
        used = [*self._images, *sorted({*self._text_files.values()})]
        self.identity = source.identity([[name, sizes[name]] for name in used])
        self.counts.log(source.full_name)

    def _filtered(self, source: Folder, images: list[str]) -> Iterator[str]:
        counts = self.counts
        for image in images:

            def value(column: str, image: str = image) -> Any:
                try:
                    return self._value(image, column)
                except ExampleError:
                    return None

            reason = exclusion_reason(source.filters, value)
            if reason is not None:
                counts.leave_out(reason, image)
                continue
            fields = [c for c in self._text_endings if _sibling(image, c) in self._text_files]
            counts.add_example(["image", *fields, *(["class"] if _class(image) else [])])
            yield image

    def __len__(self) -> int:
        return len(self._images)

    def image(self, index: int) -> bytes:
        return image_file(self._images[index], self._folder)

    def values(self, index: int) -> Callable[[str], Any]:
        return lambda column: self._value(self._images[index], column)

    def _value(self, image: str, column: str) -> Any:
        if column == "path":
            return image
        if column == "class":
            return _class(image)
        name = self._text_files.get(_sibling(image, column))
        if name is None:
            return None
        content: bytes = self._last.get(name, lambda: _read(join(self._folder, name), name))
        return [line for line in text_lines(decoded(content, column)) if line.strip()]

    def other_columns(self, index: int) -> dict[str, Any]:
        """The path, and the contents of the files beside the image by ending."""
        image = self._images[index]
        columns: dict[str, Any] = {"path": encodable(image)}
        for ending, name in self._other_files.get(image.rpartition(".")[0], {}).items():
            content = _read(join(self._folder, name), name)
            columns[ending] = json_member(content) if ending == "json" else content
        return columns


_BUILT_IN_COLUMNS = ("class", "path")


def _text_files(names: Iterable[str], images: Iterable[str], endings: set[str]) -> dict[str, str]:
    """The name of each text file by its name with the ending as it was asked for.

    The ending of a file beside an image may be in other letter case: `IMG.TXT` is `IMG.txt`.
    """
    exact = {name: name for name in names if PurePosixPath(name).suffix[1:] in endings}
    stems = {image.rpartition(".")[0] for image in images}
    found = dict(exact)
    for name in names:
        stem, _, ending = name.rpartition(".")
        if name not in exact and stem in stems:
            for wanted in endings:
                if wanted.lower() == ending.lower():
                    found.setdefault(f"{stem}.{wanted}", name)
    return found


def _files_beside_images(
    names: Iterable[str], restorable_columns: set[str]
) -> dict[str, dict[str, str]]:
    """For each path without its ending, the files there that are not images, by ending.

    Endings are in lower case, unless a second file has the same one.
    """
    restorable = {column.lower() for column in restorable_columns}
    files: dict[str, dict[str, str]] = {}
    # Endings that are in lower case already come first and keep their names.
    for name in sorted(names, key=lambda name: not name.rpartition(".")[2].islower()):
        stem, _, ending = name.rpartition(".")
        if not name.lower().endswith(_IMAGES) and ending.lower() not in restorable:
            known = files.setdefault(stem, {})
            known[ending if ending.lower() in known else ending.lower()] = name
    return files


def _class(image: str) -> str | None:
    return encodable(image.split("/")[0]) if "/" in image else None


def _sibling(image: str, ending: str) -> str:
    return f"{image.rpartition('.')[0]}.{ending}"


def _read(path: str, name: str) -> bytes:
    try:
        return read_file(path, regular=True)
    except OSError as error:
        raise ExampleError(
            f"{name} cannot be read ({error_reason(error)})", kind="unreadable"
        ) from error


def _files(folder: str, counts: SourceCounts) -> Iterator[tuple[str, int]]:
    """Path relative to the folder, with "/", and size of each file; 0 if it cannot be read.

    Args:
      folder: a local folder, or a URL.
      counts: counts folders that cannot be read.

    Raises:
      UserError: if there is no such folder.
    """
    if is_remote(folder):
        system, path = filesystem(folder)
        for name, info in system.find(path, detail=True).items():
            below = name.removeprefix(path).lstrip("/")
            if not any(part.startswith(".") for part in below.split("/")):
                yield below, info["size"]
        return
    if not os.path.isdir(folder):
        raise UserError(f"data.source.path: no folder {folder}")

    def unreadable(error: OSError) -> None:
        below = os.path.relpath(error.filename, folder)
        counts.leave_out(f"folder cannot be read ({error.strerror})", below)

    above: dict[str, frozenset[tuple[int, int]]] = {folder: frozenset()}
    for parent, folders, names in os.walk(folder, onerror=unreadable, followlinks=True):
        # A link to a folder that it is in would go round in circles.
        own = above.pop(parent) | {_identity(parent)}
        paths = {name: os.path.join(parent, name) for name in folders if not name.startswith(".")}
        folders[:] = [name for name, path in paths.items() if _identity(path) not in own]
        above |= {paths[name]: own for name in folders}
        for name in names:
            if not name.startswith("."):
                path = os.path.join(parent, name)
                yield os.path.relpath(path, folder).replace(os.sep, "/"), _size(path)


def _identity(folder: str) -> tuple[int, int]:
    """What links to one folder share; unknown if it cannot be read, as `os.walk` then says."""
    try:
        status = os.stat(folder)
    except OSError:
        return -1, -1
    return status.st_dev, status.st_ino


def _size(path: str) -> int:
    try:
        return os.path.getsize(path)
    except OSError:  # such as a link to nothing: reading it rejects its example
        return 0
