"""From the columns of a table, or the members of an archive, to what is written about an image."""

from __future__ import annotations

import abc
import hashlib
import json
import re
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
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
    Source,
    SourceCounts,
    dataset_name,
)
from vljax.data.sources.filters import Filter
from vljax.files import File, find_files, is_remote, join, read_file


@dataclass(frozen=True)
class FileSource(Source):
    """A source in files whose columns are chosen by name."""

    path: str | tuple[str, ...] | None = setting(None, path=True)
    """A file, a folder, a pattern with `*` or `{000..123}`, or several of them; local, or gs:// or
    s3://."""
    captions: tuple[str, ...] = ()
    """Columns with descriptions, in order of preference; a column may hold several."""
    tags: str | None = None
    """Column with keywords: a list, or a text with commas between them."""
    label: str | None = None
    """Column with the class: a name, or an index into the names in `classes`."""
    classes: str | None = setting(None, identity=False)
    """File with one class name a line; without it, names are collected from the column."""
    filters: tuple[Filter, ...] = ()
    """Which examples stay."""

    @property
    def full_name(self) -> str:
        return f"{self.type_name}:{self._last_part}" if self._last_part else self.type_name

    @property
    def dataset(self) -> str:
        """The name of the file or folder without its ending, so that sets are told apart."""
        return dataset_name(self._last_part) or self.type_name

    @property
    def _last_part(self) -> str:
        paths = (self.path,) if isinstance(self.path, str) else self.path or ()
        return "+".join(_named(PurePosixPath(path)) for path in paths)

    def files(self, what: str, *suffixes: str) -> list[File]:
        """The files that `path` names. Raises UserError if it is unset or names none."""
        if not self.path:
            raise UserError(f"data.source.path: unset; set --data.source.path to {what}")
        return find_files(self.path, suffixes, "data.source.path")

    @property
    def annotation_columns(self) -> tuple[str, ...]:
        """The columns that are read beside the image."""
        columns = [*self.captions, self.tags, self.label]
        return tuple(dict.fromkeys(column for column in columns if column))

    @property
    def covered(self) -> set[str]:
        """The columns of which an annotation holds all; of several with captions, it does not say
        which text is from which."""
        captions = self.captions if len(self.captions) == 1 else ()
        return {column for column in (*captions, self.tags, self.label) if column}

    @property
    def filter_columns(self) -> tuple[str, ...]:
        """The columns that decide which examples stay."""
        return tuple(dict.fromkeys(condition.column for condition in self.filters))

    def check_columns(self, known: Iterable[str], *more: tuple[str, str | None]) -> None:
        """Raises UserError, with a suggestion, if a chosen column is not among those known.

        Args:
          known: the columns that there are.
          more: field and column beside captions, tags, label and filters.
        """
        known = sorted(known)
        for field, column in (*more, *self._chosen()):
            if column is not None and column not in known:
                raise UserError(
                    f"data.source.{field}: {self.full_name} has no {column!r}"
                    f"{suggest(column, known)}"
                )

    def _chosen(self) -> Iterator[tuple[str, str | None]]:
        yield from (("captions", column) for column in self.captions)
        yield from (("tags", self.tags), ("label", self.label))
        for i, condition in enumerate(self.filters):
            yield f"filters.{i}.column", condition.column

    def identity(self, *parts: object) -> str:
        """A hash of what is read of the data, and of what determines that.

        Args:
          *parts: names, sizes and the like, free of machine paths.
        """
        choices = [self.captions, self.tags, self.label, self.stated_classes()]
        content = [self.type_name, encode(choices), encode(self.filters), *parts]
        return hashlib.sha256(json.dumps(content).encode()).hexdigest()

    def stated_classes(self) -> tuple[str, ...]:
        """The names in the file `classes`; empty where it is unset. Raises UserError."""
        if self.classes is None:
            return ()
        try:
            lines = read_file(self.classes).decode().splitlines()
        except (OSError, ValueError) as error:
            raise UserError(f"data.source.classes: {self.classes}: {error}") from error
        return tuple(line.strip() for line in lines if line.strip())


def _named(path: PurePosixPath) -> str:
    """The last part of a path; of a pattern for files, the folder that they lie in."""
    is_pattern = re.search(r"[*?\[{]", path.name) and path.parent.name
    return path.parent.name if is_pattern else path.name


class ColumnRecords(Records):
    """Records that read what is written about an example when asked.

    A value that cannot be used is no exception before the example is asked for as a whole: what is
    written about it is then empty, and reading it rejects it.

    Args:
      source: which columns are read.
      class_names: what the data says of them; those of the file `classes` go before.
      indexed: whether whole numbers among the values are indices of these names.
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
            return self._described(index)
        except ExampleError:
            return Annotation(())

    def __getitem__(self, index: int) -> Record:
        about = self._described(index)
        return Record(**vars(about), image=self.image(index), masks=self.masks(index))

    def _described(self, index: int) -> Annotation:
        value, source = self.values(index), self.source
        captions = [text for name in source.captions for text in texts(value(name), name)]
        tags = texts(value(source.tags), source.tags) if source.tags else []
        if len(tags) == 1:
            tags = [tag.strip() for tag in tags[0].split(",")]
        label = value(source.label) if source.label else None
        return Annotation(tuple(captions), tuple(tags), self._label(label))

    @abc.abstractmethod
    def values(self, index: int) -> Callable[[str], Any]:
        """What gives the value of a column of an example; both may raise ExampleError."""

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


def class_names_of(values: Iterable[str]) -> tuple[str, ...]:
    """The names among the values of a column with the class; none where all are indices."""
    names = sorted({value for value in values if value})
    return () if all(name.isdecimal() for name in names) else tuple(names)


def class_text(value: Any) -> str:
    """A class as text, which tells names from indices: "dog", "7"."""
    if isinstance(value, bytes):
        return decoded(value, "class").strip()
    return str(value).strip()


def texts(value: Any, column: str) -> list[str]:
    """The texts in a column: none, one or several. Raises ExampleError for anything else."""
    if value is None:
        return []
    if isinstance(value, bytes):
        return [decoded(value, column)]
    if isinstance(value, str):
        return [value]
    if isinstance(value, list | tuple):
        return [text for item in value for text in texts(item, column)]
    raise ExampleError(f"{column} is no text but {type(value).__name__}", kind="damaged")


def decoded(content: bytes, column: str) -> str:
    """The text that bytes hold. Raises ExampleError, with the place of the first wrong byte."""
    try:
        return content.decode()
    except UnicodeDecodeError as error:
        raise ExampleError(
            f"{column} is not UTF-8 (byte {error.start})", kind="bad_utf8"
        ) from error


# --- The image in a column of a table: its file, or where that is ---------------------------------


def image_file(value: Any, folder: str) -> bytes:
    """The encoded image that a value stands for.

    Args:
      value: the file's bytes; its path; or `{"bytes": ..., "path": ...}` as Hugging Face writes it.
      folder: what paths are relative to.

    Raises:
      ExampleError: if there is none, or it cannot be read.
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
        reason = getattr(error, "strerror", None) or error
        raise ExampleError(
            f"image {value!r} cannot be read ({reason})", kind="unreadable"
        ) from error


# --- What a thread read last: an example's label, captions and image are asked for one by one -----


class LastRead(threading.local):
    """One value a thread, by its key; not carried to other processes."""

    _key: Any = None
    _value: Any = None

    def get(self, key: Any, read: Callable[[], Any]) -> Any:
        """The value of a key, read anew unless it was the last."""
        if self._key != key:
            self._value = read()
            self._key = key
        return self._value

    def __reduce__(self) -> tuple[type[LastRead], tuple[()]]:
        return LastRead, ()
