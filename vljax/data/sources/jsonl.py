"""JSON-lines files that list image files: one JSON object per line."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from jaxtyping import Int64

from vljax.config import UserError, encode, setting, suggest
from vljax.data.records import (
    Annotation,
    ExampleError,
    Progress,
    Record,
    Records,
    SourceCounts,
    dataset_name,
)
from vljax.data.sources.annotations import AnnotatedSource
from vljax.data.sources.base import class_names_of, class_text, image_file, numbers_of, texts
from vljax.data.sources.filters import Filter, exclusion_reason
from vljax.files import base_name, decode_text, not_utf8, parent, parse_json, read_user_file


@dataclass(frozen=True)
class JsonLines(AnnotatedSource, name="jsonl"):
    """Images listed in a JSON-lines file.

    A line is `{"image": "relative/path.jpg", "caption": "..."}`. It may have a list `captions`
    instead of `caption`, a list `tags`, and a class name or index `class`. The fields `question`,
    `answers` and `boxes` name further keys. Other keys are ignored, but filters can use them.

    >>> with open("pets.jsonl", "w") as file:
    ...     _ = file.write('{"image": "0.jpg", "caption": "a dog", "class": "dog"}\\n')
    ...     _ = file.write('{"image": "1.jpg", "captions": ["a cat", "asleep"]}\\n')
    >>> records = JsonLines("pets.jsonl").open()
    >>> [records.annotation(i).captions for i in range(len(records))]
    [('a dog',), ('a cat', 'asleep')]
    """

    path: str | None = setting(None, path=True)
    """The file. Image paths in it are relative to its folder, or URLs."""
    filters: tuple[Filter, ...] = ()
    """Filters that a line must pass; any key of a line is a column."""

    @property
    def full_name(self) -> str:
        return f"jsonl:{base_name(self.path)}" if self.path else "jsonl"

    @property
    def dataset(self) -> str:
        """The name of the file without its ending."""
        return dataset_name(self.path or "") or self.type_name

    def open(self) -> Records:
        return JsonLinesRecords(self._file(), self)

    def open_with_all_columns(self, workers: int | None, progress: Progress) -> Records:
        return JsonLinesRecords(self._file(), self, all_columns=True)

    def _file(self) -> str:
        if self.path is None:
            raise UserError("data.source.path: unset; set --data.source.path to a JSON-lines file")
        return self.path


class JsonLinesRecords(Records):
    """The lines of a JSON-lines file; an image is read when it is asked for.

    A line that cannot be used rejects its example; its annotation is empty.
    """

    def __init__(self, path: str, source: JsonLines, *, all_columns: bool = False):
        content = read_user_file(path)
        try:
            decode_text(content[:2], "ignore")  # UTF-16 would be refused line by line
        except UnicodeDecodeError as error:
            raise UserError(f"{path}: {not_utf8(error)}") from error
        filters, named = source.filters, source.named_columns
        keys: set[str] = set()
        self.counts = SourceCounts(files=1)
        self._others: list[dict[str, Any]] = []
        rows: list[_Line] = []
        problems: list[str] = []
        for number, text in enumerate(content.split(b"\n"), 1):
            if not text.strip():
                continue
            line = _parse(text)
            if line.problem is not None:
                problems.append(f"{path}:{number}: {line.problem}")
            keys |= line.row.keys()
            reason = exclusion_reason(filters, line.row.get)
            if reason is not None:
                self.counts.leave_out(reason, f"line {number}")
                continue
            rows.append(line)
            if all_columns:
                other = {key: line.row[key] for key in line.row if key not in _RESTORABLE}
                self._others.append(other)
            fields: dict[str, Any] = {column: line.row.get(column) for column in named.values()}
            fields |= {"image": line.image, "captions": line.captions}
            fields |= {"tags": line.tags, "class": line.label}
            self.counts.add_example(key for key, value in fields.items() if value not in _NOTHING)
            if not named:
                line.row = {}  # not needed again
        if problems and len(problems) == len(rows) + sum(self.counts.left_out.values()):
            raise UserError(problems[0])
        self.identity = hashlib.sha256(content).hexdigest()
        if filters:
            key = f"{self.identity} {json.dumps(encode(filters))}"
            self.identity = hashlib.sha256(key.encode()).hexdigest()
        if named:
            key = f"{self.identity} {json.dumps([named, source.box_format])}"
            self.identity = hashlib.sha256(key.encode()).hexdigest()
        for name, column in named.items():
            if rows and column not in keys:
                near = suggest(column, keys)
                raise UserError(f"data.source.{name}: {path} has no {column!r}{near}")
        self.counts.log(f"jsonl:{base_name(path)}")
        self.class_names, labels = _labels([line.label for line in rows])
        self._folder = parent(path)
        self._images = [line.image for line in rows]
        self._problems = {
            i: line.problem for i, line in enumerate(rows) if line.problem is not None
        }
        self._source = source
        self._annotations = [
            Annotation(line.captions, line.tags, label)
            for line, label in zip(rows, labels, strict=True)
        ]
        # Parsed when they are read, so that a bad value rejects its example only.
        columns = dict.fromkeys(named.values())
        self._named = [{c: line.row.get(c) for c in columns} for line in rows] if named else []

    def __len__(self) -> int:
        return len(self._images)

    def annotation(self, index: int) -> Annotation:
        annotation = self._annotations[index]
        if not self._named:
            return annotation
        return replace(annotation, **self._source.annotations(self._named[index]))

    def image(self, index: int) -> bytes:
        return image_file(self._images[index], self._folder)

    def image_numbers(self) -> Int64[np.ndarray, " examples"]:
        # A line without a path has no image in common with another one.
        return numbers_of(name or i for i, name in enumerate(self._images))

    def __getitem__(self, index: int) -> Record:
        if index in self._problems:
            raise ExampleError(self._problems[index], kind="damaged")
        return super().__getitem__(index)

    def other_columns(self, index: int) -> dict[str, Any]:
        return self._others[index] if self._others else {}


_RESTORABLE = ("caption", "captions", "tags", "class")
_NOTHING: tuple[Any, ...] = (None, "", (), [])


@dataclass
class _Line:
    """One line; if it has a problem, only with the keys before it."""

    row: dict[str, Any] = field(default_factory=dict)
    """All keys; empty if the line is not a JSON object."""
    problem: str | None = None
    """Why the example cannot be used."""
    image: str | None = None
    captions: tuple[str, ...] = ()
    tags: tuple[str, ...] = ()
    label: str | int | None = None
    """The class: a name, or a whole number."""


def _parse(content: bytes) -> _Line:
    line = _Line()
    try:
        row = parse_json(content)
        if not isinstance(row, dict):
            raise ValueError(type(row).__name__)
    except ValueError as error:
        line.problem = f"not a JSON object ({error})"
        return line
    line.row = row
    line.problem = _read(row, line)
    return line


def _read(row: dict[str, Any], line: _Line) -> str | None:
    """Fills in the fields of a line; returns why the example cannot be used, if so."""
    if "image" not in row:
        return "'image' is missing"
    if not isinstance(row["image"], str | None):
        return f"'image' must be text, got {row['image']!r}"
    line.image = row["image"]
    if "caption" in row and "captions" in row:
        return "has both 'caption' and 'captions'; keep one"
    for key in ("caption", "captions", "tags"):
        value = row.get(key)
        if isinstance(value, str) and key != "caption":
            return f"{key!r} must be a list of texts, got {value!r}"
        try:
            found = tuple(texts(value, key))
        except ExampleError:
            wanted = "text" if key == "caption" else "a list of texts"
            return f"{key!r} must be {wanted}, got {value!r}"
        if key == "tags":
            line.tags = found
        else:
            line.captions = line.captions or found
    value = row.get("class")
    try:
        text = class_text(value)
    except ExampleError:
        text = None
    if text is None or isinstance(value, bool):
        return f"'class' must be text, got {value!r}"
    number = text if isinstance(value, str) else int(text) if text.isdecimal() else text
    line.label = number if text.strip() else None
    return None


def _labels(values: list[str | int | None]) -> tuple[tuple[str, ...], list[int | None]]:
    """The class names and the label of each line. Without texts, whole numbers are the labels."""
    known = {value for value in values if value is not None}
    if all(isinstance(value, int) for value in known):
        names = class_names_of(map(str, known))  # none, unless they are too large for labels
        if not names:
            return (), [value if isinstance(value, int) else None for value in values]
    else:
        names = tuple(sorted(map(str, known)))
    labels = {name: label for label, name in enumerate(names)}
    return names, [None if value is None else labels[str(value)] for value in values]
