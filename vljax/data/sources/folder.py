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
from vljax.data.sources.tar_scan import parse_json
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
        sizes = dict(sorted(_files(self._folder)))
        self._text_endings = {
            c
            for c in (*source.annotation_columns, *source.filter_columns)
            if c not in _BUILT_IN_COLUMNS
        }
        self._text_files = {
            name for name in sizes if PurePosixPath(name).suffix[1:] in self._text_endings
        }
        self._other_endings = (
            _endings_beside_images(sizes, source.restorable_columns) if all_columns else {}
        )
        self.counts = SourceCounts(files=1)
        self._images = list(
            self._filtered(source, [n for n in sizes if n.lower().endswith(_IMAGES)])
        )
        if not self._images and not self.counts.left_out:
            raise UserError(f"{folder}: no images ({', '.join(_IMAGES)}) in this folder")
        names = {name for image in self._images if (name := _class(image)) is not None}
        # Folder names that are numbers are names, not indices: "7" need not be the eighth class.
        classes = class_names_of(names) or tuple(sorted(names))
        super().__init__(source, classes if source.label == "class" else ())
        used = [*self._images, *sorted(self._text_files)]
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
        name = _sibling(image, column)
        if name not in self._text_files:
            return None
        content: bytes = self._last.get(name, lambda: _read(join(self._folder, name), name))
        return [line for line in text_lines(decoded(content, column)) if line.strip()]

    def other_columns(self, index: int) -> dict[str, Any]:
        """The path, and the contents of the files beside the image by ending."""
        image = self._images[index]
        columns: dict[str, Any] = {"path": encodable(image)}
        for ending in self._other_endings.get(image.rpartition(".")[0], ()):
            name = _sibling(image, ending)
            content = _read(join(self._folder, name), name)
            columns[ending] = parse_json(content) if ending == "json" else content
        return columns


_BUILT_IN_COLUMNS = ("class", "path")


def _endings_beside_images(
    names: Iterable[str], restorable_columns: set[str]
) -> dict[str, list[str]]:
    """For each path without its ending, the endings of the files there that are not images."""
    endings: dict[str, list[str]] = {}
    for name in names:
        stem, _, ending = name.rpartition(".")
        if not name.lower().endswith(_IMAGES) and ending not in restorable_columns:
            endings.setdefault(stem, []).append(ending)
    return endings


def _class(image: str) -> str | None:
    return encodable(image.split("/")[0]) if "/" in image else None


def _sibling(image: str, ending: str) -> str:
    return f"{image.rpartition('.')[0]}.{ending}"


def _read(path: str, name: str) -> bytes:
    try:
        return read_file(path)
    except OSError as error:
        raise ExampleError(
            f"{name} cannot be read ({error_reason(error)})", kind="unreadable"
        ) from error


def _files(folder: str) -> Iterator[tuple[str, int]]:
    """Path relative to the folder, with "/", and size of each file. Raises UserError."""
    if is_remote(folder):
        system, path = filesystem(folder)
        for name, info in system.find(path, detail=True).items():
            below = name.removeprefix(path).lstrip("/")
            if not any(part.startswith(".") for part in below.split("/")):
                yield below, info["size"]
        return
    if not os.path.isdir(folder):
        raise UserError(f"data.source.path: no folder {folder}")
    for parent, folders, names in os.walk(folder, followlinks=True):
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in names:
            if not name.startswith("."):
                path = os.path.join(parent, name)
                yield os.path.relpath(path, folder).replace(os.sep, "/"), os.path.getsize(path)
