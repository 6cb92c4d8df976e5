"""Base classes of sources in files, and how values of columns become captions, tags and labels.

`FileSource` is the component: paths, and which columns are captions, tags and label.
`ColumnRecords` is what it opens: a subclass gives the value of a column of an example, and this
class builds the annotation. A column is a table column, a feature, or a member of a tar shard.
"""

from __future__ import annotations

import abc
import hashlib
import json
import re
import threading
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

import numpy as np

from vljax.config import UserError, encode, setting, suggest
from vljax.data.records import (
    Annotation,
    ExampleError,
    Record,
    Records,
    SourceCounts,
    dataset_name,
)
from vljax.data.sources.annotations import AnnotatedSource
from vljax.data.sources.filters import Filter
from vljax.files import File, error_reason, find_files, is_remote, join, read_file


@dataclass(frozen=True)
class FileSource(AnnotatedSource):
    """A source in files, whose columns are chosen by name."""

    path: str | tuple[str, ...] | None = setting(None, path=True)
    """A file, a folder, a pattern with `*` or `{000..123}`, or several of them; local, or gs:// or
    s3://."""
    captions: tuple[str, ...] = ()
    """Columns with captions, in order of preference; a column may hold several captions."""
    tags: str | None = None
    """Column with keywords: a list, or one text with commas between them."""
    label: str | None = None
    """Column with the class: a name, or an index into the names in `classes`."""
    classes: str | None = setting(None, identity=False)
    """File with one class name per line. If unset, names are collected from the column."""
    filters: tuple[Filter, ...] = ()
    """Filters that an example must pass."""

    @property
    def full_name(self) -> str:
        return f"{self.type_name}:{self._last_part}" if self._last_part else self.type_name

    @property
    def dataset(self) -> str:
        """The name of the file or folder without its ending."""
        return dataset_name(self._last_part) or self.type_name

    @property
    def _last_part(self) -> str:
        paths = (self.path,) if isinstance(self.path, str) else self.path or ()
        return "+".join(_last_name(PurePosixPath(path)) for path in paths)

    def files(self, what: str, *suffixes: str) -> list[File]:
        """The files that `path` names. Raises UserError if it is unset or names none."""
        if not self.path:
            raise UserError(f"data.source.path: unset; set --data.source.path to {what}")
        return find_files(self.path, suffixes, "data.source.path")

    @property
    def annotation_columns(self) -> tuple[str, ...]:
        """The columns that make up an annotation: captions, tags, label, questions and boxes."""
        columns = [*self.captions, self.tags, self.label, *self.named_columns.values()]
        return tuple(dict.fromkeys(column for column in columns if column))

    @property
    def restorable_columns(self) -> set[str]:
        """The columns that can be restored from an annotation, which conversion need not copy.

        Not captions from several columns: the annotation does not tell which is from which.
        """
        captions = self.captions if len(self.captions) == 1 else ()
        return {column for column in (*captions, self.tags, self.label) if column}

    @property
    def filter_columns(self) -> tuple[str, ...]:
        """The columns that filters look at."""
        return tuple(dict.fromkeys(condition.column for condition in self.filters))

    def check_columns(self, known: Iterable[str], *more: tuple[str, str | None]) -> None:
        """Raises UserError, with a suggestion, if a chosen column does not exist.

        Args:
          known: the columns of the data.
          *more: field and column to check besides captions, tags, label and filters.
        """
        known = sorted(known)
        chosen = [*more, *(("captions", column) for column in self.captions)]
        chosen += [("tags", self.tags), ("label", self.label), *self.named_columns.items()]
        chosen += [(f"filters.{i}.column", f.column) for i, f in enumerate(self.filters)]
        for field, column in chosen:
            if column is not None and column not in known:
                raise UserError(
                    f"data.source.{field}: {self.full_name} has no {column!r}"
                    f"{suggest(column, known)}"
                )

    def identity(self, *parts: object) -> str:
        """A hash of the data that is read and of the fields that decide what is read.

        Args:
          *parts: JSON data about the files, such as names and sizes, without machine paths.
        """
        choices = [self.captions, self.tags, self.label, self.stated_classes()]
        content = [self.type_name, encode(choices), encode(self.filters), *parts]
        if named := self.named_columns:
            content.append([named, self.box_format])
        return hashlib.sha256(json.dumps(content).encode()).hexdigest()

    def stated_classes(self) -> tuple[str, ...]:
        """The names in the file `classes`; empty if it is unset. Raises UserError."""
        if self.classes is None:
            return ()
        try:
            lines = read_file(self.classes).decode().splitlines()
        except (OSError, ValueError) as error:
            raise UserError(f"data.source.classes: {self.classes}: {error}") from error
        return tuple(line.strip() for line in lines if line.strip())


def _last_name(path: PurePosixPath) -> str:
    """The last part of a path; for a pattern of files, the folder that they are in."""
    is_pattern = re.search(r"[*?\[{]", path.name) and path.parent.name
    return path.parent.name if is_pattern else path.name


class ColumnRecords(Records):
    """Records whose annotations are built from the values of columns when they are asked for.

    If a value is invalid, `annotation` is empty, so that the examples of a data set can be counted.
    Reading the whole example raises the error, which rejects it.

    Args:
      source: which columns are read.
      class_names: names found in the data; those of the file `classes` take precedence.
      indexed: whether whole numbers in the label column are indices of these names.
    """

    counts: SourceCounts

    def __init__(
        self, source: FileSource, class_names: Sequence[str] = (), *, indexed: bool = False
    ):
        self.source = source
        self._indexed = indexed or source.classes is not None
        self.class_names = source.stated_classes() or tuple(class_names)
        self._labels = {name: label for label, name in enumerate(self.class_names)}

    def annotation(self, index: int) -> Annotation:
        try:
            return self._read_annotation(index)
        except ExampleError:
            return Annotation(())

    def __getitem__(self, index: int) -> Record:
        annotation = self._read_annotation(index)
        return Record(**vars(annotation), image=self.image(index), masks=self.masks(index))

    def _read_annotation(self, index: int) -> Annotation:
        value, source = self.values(index), self.source
        captions = [text for name in source.captions for text in texts(value(name), name)]
        tags = texts(value(source.tags), source.tags) if source.tags else []
        if len(tags) == 1:
            tags = [tag.strip() for tag in tags[0].split(",")]
        label = value(source.label) if source.label else None
        more = source.annotations({name: value(name) for name in source.named_columns.values()})
        return Annotation(tuple(captions), tuple(tags), self._label(label), **more)

    @abc.abstractmethod
    def values(self, index: int) -> Callable[[str], Any]:
        """A function from column to value for one example. Both may raise ExampleError."""

    def _label(self, value: Any) -> int | None:
        if value is None:
            return None
        text = class_text(value)
        if not text:
            return None
        is_index = self._indexed and isinstance(value, int | np.integer)
        if not is_index and text in self._labels:
            return self._labels[text]
        if not text.isdecimal():
            raise ExampleError(f"class {text!r} is not among the class names", kind="damaged")
        if self.class_names and int(text) >= len(self.class_names):
            count = len(self.class_names)
            raise ExampleError(f"class {text} has no name; there are {count}", kind="damaged")
        return int(text)


# --- Values of columns ----------------------------------------------------------------------------


def class_names_of(values: Iterable[str]) -> tuple[str, ...]:
    """The sorted class names among the values of a label column; empty if all are indices."""
    names = sorted({value for value in values if value})
    return () if all(name.isdecimal() for name in names) else tuple(names)


def class_text(value: Any) -> str:
    """The value of a label column as text: "dog", or "7" for an index."""
    if isinstance(value, bytes):
        return decoded(value, "class").strip()
    return str(value).strip()


def texts(value: Any, column: str) -> list[str]:
    """The texts in the value of a column: none, one or several.

    Raises:
      ExampleError: if the value is not text.
    """
    if value is None:
        return []
    if isinstance(value, bytes):
        return [decoded(value, column)]
    if isinstance(value, str):
        return [value]
    if isinstance(value, list | tuple):
        return [text for item in value for text in texts(item, column)]
    raise ExampleError(f"{column} is not text but {type(value).__name__}", kind="damaged")


def decoded(content: bytes, column: str) -> str:
    """UTF-8 bytes as text. Raises ExampleError that names the first invalid byte."""
    try:
        return content.decode()
    except UnicodeDecodeError as error:
        raise ExampleError(
            f"{column} is not UTF-8 (byte {error.start})", kind="bad_utf8"
        ) from error


def image_file(value: Any, folder: str) -> bytes:
    """The encoded image that the value of an image column stands for.

    Args:
      value: the bytes of the file; its path; or `{"bytes": ..., "path": ...}`, as Hugging Face
        writes images.
      folder: the folder that paths are relative to.

    Raises:
      ExampleError: if there is no image, or it cannot be read.
    """
    if isinstance(value, dict):
        value = value.get("bytes") or value.get("path")
    if isinstance(value, bytes) and value:
        return value
    if not isinstance(value, str) or not value:
        raise ExampleError("no image", kind="not_an_image")
    path = value if is_remote(value) or value.startswith("/") else join(folder, value)
    try:
        return read_file(path)
    except (OSError, ValueError, UserError) as error:  # ValueError: a null byte in the name
        raise ExampleError(
            f"image {value!r} cannot be read ({error_reason(error)})", kind="unreadable"
        ) from error


class LastRead(threading.local):
    """The value that each thread read last, by key.

    The label, captions and image of an example are requested one by one. With this cache, the
    example is read once. A pickled copy is empty.
    """

    _key: Any = None
    _value: Any = None

    def get(self, key: Any, read: Callable[[], Any]) -> Any:
        """The value of a key; calls `read` unless it was the last key of this thread."""
        if self._key != key:
            self._value = read()
            self._key = key
        return self._value

    def __reduce__(self) -> tuple[type[LastRead], tuple[()]]:
        return LastRead, ()
