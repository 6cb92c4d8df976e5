"""Base classes of sources in files, and how values of columns become captions, tags and labels.

`FileSource` is the component: paths, and which columns are captions, tags and label.
`ColumnRecords` is what it opens: a subclass gives the value of a column of an example, and this
class builds the annotation. A column is a table column, a feature, or a member of a tar shard.
"""

from __future__ import annotations

import abc
import contextlib
import hashlib
import json
import logging
import re
import threading
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

import numpy as np
from jaxtyping import Int64

from vljax.config import UserError, encode, setting, suggest
from vljax.data.records import (
    Annotation,
    ExampleError,
    Record,
    Records,
    SourceCounts,
    dataset_name,
    is_nan,
)
from vljax.data.sources.annotations import AnnotatedSource
from vljax.data.sources.filters import Filter
from vljax.files import (
    File,
    base_name,
    decode_text,
    encodable,
    error_reason,
    find_files,
    is_remote,
    join,
    not_utf8,
    read_file,
    read_names,
)

logger = logging.getLogger(__name__)


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
    """Column with the class: a name, or an index into the names in `classes`. No value, NaN, empty
    text and -1 mean that an example has no class."""
    classes: str | None = setting(None, identity=False)
    """File with one class name per line, or a JSON list of them. If unset, names are collected from
    the column; if all are whole numbers below 2^31, they are indices without names."""
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
        files = find_files(self.path, suffixes, "data.source.path")
        if isinstance(self.path, str):
            _warn_of_splits(self.path, files)
        return files

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

    def late_columns(
        self, known: Iterable[str], count: int, columns_of: Callable[[int], Iterable[str]]
    ) -> set[str]:
        """The columns of the data, for formats in which each example has its own.

        Examples are read only while a chosen column is missing: all of them, or 4096 that are
        spread over a larger set.

        Args:
          known: columns that are known, such as those of the first examples.
          count: number of examples.
          columns_of: the columns of an example; may raise ExampleError.
        """
        found = {*known}
        for index in np.linspace(0, count - 1, min(count, _MOST_READ)).round().astype(int).tolist():
            if found.issuperset(self.annotation_columns):
                break
            with contextlib.suppress(ExampleError):
                found.update(columns_of(index))
        return found

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
        return () if self.classes is None else read_names(self.classes, "data.source.classes")


_MOST_READ = 4096
_SPLIT = re.compile(r"(?<![^\W_])(train|val|valid|validation|dev|test)(?:ing)?(?![^\W_])", re.I)


def _warn_of_splits(path: str, files: Sequence[File]) -> None:
    """Warns if one folder or pattern names files of several splits, which are read as one set."""
    named: dict[str, str] = {}
    for file in files:
        if found := _SPLIT.search(base_name(file.path)):
            named.setdefault(found[1].lower(), base_name(file.path))
    if len(named) > 1:
        logger.warning(
            "%s: files of several splits are read as one data set (%s); if this is not meant, name "
            "the files of one of them in data.source.path",
            *(path, ", ".join(named.values())),
        )


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
        text = class_text(value)
        is_index = self._indexed and isinstance(value, int | float | np.number)
        # Names of a JSON list may have outer spaces; those that were collected have none.
        known = () if is_index else (text, text.strip())
        for name in known:
            if name in self._labels:
                return self._labels[name]
        text = text.strip()
        number = _class_number(text) if text else _NO_CLASS
        if number is None:
            raise ExampleError(f"class {text!r} is not among the class names", kind="damaged")
        if number == _NO_CLASS:
            return None
        if self.class_names and number >= len(self.class_names):
            count = len(self.class_names)
            raise ExampleError(f"class {text} has no name; there are {count}", kind="damaged")
        if number > _LARGEST_CLASS:
            raise ExampleError(
                f"class {text} is not an index: the largest is {_LARGEST_CLASS:,}; name the classes"
                " in data.source.classes",
                kind="damaged",
            )
        return number


# --- Values of columns ----------------------------------------------------------------------------

_NO_CLASS = -1
_LARGEST_CLASS = 2**31 - 1  # labels are int32 in batches


def class_names_of(values: Iterable[str]) -> tuple[str, ...]:
    """The sorted class names among the values of a label column; empty if all are indices.

    >>> class_names_of(["dog", "cat", ""]), class_names_of(["1.0", "0.0", "-1"])
    (('cat', 'dog'), ())
    """
    names = sorted({value.strip() for value in values} - {""})
    numbers = [_class_number(name) for name in names]
    if any(number is None for number in numbers):
        return tuple(names)
    known = [number for number in numbers if number is not None]
    if max(known, default=0) <= _LARGEST_CLASS:
        return ()
    # Such as ids of photographs: too large for indices, so they are names.
    pairs = sorted(zip(known, names, strict=True))
    return tuple(name for number, name in pairs if number != _NO_CLASS)


def class_texts(values: Iterable[Any]) -> Iterator[str]:
    """The values of a label column as texts; those that are not a class are left out."""
    for value in values:
        with contextlib.suppress(ExampleError):
            yield class_text(value)


def class_text(value: Any) -> str:
    """The value of a label column as text: "dog", "7" for an index, "" if there is none.

    >>> class_text("dog"), class_text(7.0), class_text(float("nan")), class_text(-1)
    ('dog', '7', '', '')

    Raises:
      ExampleError: if it is several values, or not UTF-8.
    """
    if isinstance(value, np.generic):
        value = value.item()
    if value is None or is_nan(value):
        return ""
    if isinstance(value, bytes):
        return decoded(value, "class")
    if isinstance(value, list | tuple | dict | np.ndarray):
        raise ExampleError(f"class is not one value but {type(value).__name__}", kind="damaged")
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return "" if value == _NO_CLASS else encodable(str(value))


_LONGEST_NUMBER = 1000  # digits; Python refuses to parse more than 4,300


def _class_number(text: str) -> int | None:
    """The index that a text stands for; -1 if it stands for no class, None if it is a name."""
    if len(text) > _LONGEST_NUMBER:
        return None
    if text.isdecimal():
        return int(text)
    if whole := re.fullmatch(r"(-1|\d+)(?:\.0*)?|(nan)", text, re.IGNORECASE):
        return int(whole[1] or _NO_CLASS)
    return None


def texts(value: Any, column: str) -> list[str]:
    """The texts in the value of a column: none (also for NaN), one or several.

    Half an emoji becomes U+FFFD, so that every text can be written as UTF-8.

    Raises:
      ExampleError: if the value is not text.
    """
    if value is None or is_nan(value):
        return []
    if isinstance(value, bytes):
        return [decoded(value, column)]
    if isinstance(value, str):
        return [encodable(value)]
    if isinstance(value, list | tuple):
        return [text for item in value for text in texts(item, column)]
    raise ExampleError(f"{column} is not text but {type(value).__name__}", kind="damaged")


def decoded(content: bytes, column: str) -> str:
    """UTF-8 bytes as text, without a byte order mark.

    Raises:
      ExampleError: if they are not UTF-8; it names the first invalid byte.
    """
    try:
        return decode_text(content)
    except UnicodeDecodeError as error:
        raise ExampleError(f"{column} is {not_utf8(error)}", kind="bad_utf8") from error


def numbers_of(names: Iterable[Hashable]) -> Int64[np.ndarray, " names"]:
    """A number for each name, from 0 in the order of first use; equal names have the same.

    >>> numbers_of(["b.jpg", "a.jpg", "b.jpg"]).tolist()
    [0, 1, 0]
    """
    numbers: dict[Hashable, int] = {}
    return np.array([numbers.setdefault(name, len(numbers)) for name in names], np.int64)


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
    if value.startswith("data:"):
        raise ExampleError(
            f"image {_shortened(value)!r} is a data URL; write it to a file, and name the file",
            kind="unreadable",
        )
    path = value if is_remote(value) or value.startswith("/") else join(folder, value)
    try:
        return read_file(path, regular=True)
    except (OSError, ValueError, UserError) as error:  # ValueError: a null byte in the name
        raise ExampleError(
            f"image {_shortened(value)!r} cannot be read ({error_reason(error)})", kind="unreadable"
        ) from error


def _shortened(text: str, most: int = 100) -> str:
    """A text without its middle, if it is long, for messages."""
    return text if len(text) <= most else f"{text[: most // 2]}…{text[-most // 4 :]}"


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
