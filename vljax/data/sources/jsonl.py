"""JSON-lines files that list image files: one JSON object per line."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, replace
from typing import Any

from vljax.config import UserError, encode, setting, suggest
from vljax.data.records import Annotation, Progress, Records, SourceCounts, dataset_name
from vljax.data.sources.annotations import AnnotatedSource
from vljax.data.sources.base import image_file
from vljax.data.sources.filters import Filter, exclusion_reason
from vljax.files import base_name, parent, read_user_file


@dataclass(frozen=True)
class JsonLines(AnnotatedSource, name="jsonl"):
    """Images listed in a JSON-lines file.

    A line is `{"image": "relative/path.jpg", "caption": "..."}`. It may have a list `captions`
    instead of `caption`, a list `tags`, and a class name `class`. The fields `question`, `answers`
    and `boxes` name further keys. Other keys are ignored, but filters can use them.

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
    """The lines of a JSON-lines file; an image is read when it is asked for."""

    def __init__(self, path: str, source: JsonLines, *, all_columns: bool = False):
        content = read_user_file(path)
        filters, named = source.filters, source.named_columns
        keys: set[str] = set()
        lines = content.split(b"\n")
        self.counts = SourceCounts(files=1)
        self._others: list[dict[str, Any]] = []
        rows = []
        for number, line in enumerate(lines, 1):
            if line.strip():
                row, parsed = _parse(line, f"{path}:{number}")
                keys |= row.keys()
                reason = exclusion_reason(filters, row.get)
                if reason is not None:
                    self.counts.leave_out(reason, f"line {number}")
                    continue
                parsed |= {column: row.get(column) for column in named.values()}
                rows.append(parsed)
                if all_columns:
                    self._others.append({key: row[key] for key in row if key not in _RESTORABLE})
                self.counts.add_example(key for key, value in parsed.items() if value)
        self.identity = hashlib.sha256(content).hexdigest()
        if filters:
            key = f"{self.identity} {json.dumps(encode(filters))}"
            self.identity = hashlib.sha256(key.encode()).hexdigest()
        if named:
            key = f"{self.identity} {json.dumps([named, source.box_format])}"
            self.identity = hashlib.sha256(key.encode()).hexdigest()
        for field, column in named.items():
            if rows and column not in keys:
                near = suggest(column, keys)
                raise UserError(f"data.source.{field}: {path} has no {column!r}{near}")
        self.counts.log(f"jsonl:{base_name(path)}")
        self.class_names = tuple(sorted({row["class"] for row in rows if row["class"] is not None}))
        labels = {name: label for label, name in enumerate(self.class_names)}
        self._folder = parent(path)
        self._images = [row["image"] for row in rows]
        self._source = source
        self._annotations = [
            Annotation(row["captions"], row["tags"], labels.get(row["class"])) for row in rows
        ]
        # Parsed when they are read, so that a bad value rejects its example only.
        self._named = [{c: row[c] for c in named.values()} for row in rows] if named else []

    def __len__(self) -> int:
        return len(self._images)

    def annotation(self, index: int) -> Annotation:
        annotation = self._annotations[index]
        if not self._named:
            return annotation
        return replace(annotation, **self._source.annotations(self._named[index]))

    def image(self, index: int) -> bytes:
        return image_file(self._images[index], self._folder)

    def other_columns(self, index: int) -> dict[str, Any]:
        return self._others[index] if self._others else {}


_RESTORABLE = ("caption", "captions", "tags", "class")


def _parse(line: bytes, where: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """All keys of a line, and a dict of `image`, `captions`, `tags` and `class` (or None)."""
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{where}: not a JSON object ({error})") from error
    if not isinstance(row, dict):
        raise UserError(f"{where}: not a JSON object ({type(row).__name__})")
    if "image" not in row:
        raise UserError(f"{where}: 'image' is missing")
    if "caption" in row and "captions" in row:
        raise UserError(f"{where}: has both 'caption' and 'captions'; keep one")
    captions = [row["caption"]] if "caption" in row else row.get("captions", [])
    parsed = {
        "image": row["image"],
        "captions": captions,
        "tags": row.get("tags", []),
        "class": row.get("class"),
    }
    for key, types in (("image", str), ("class", str | None)):
        if not isinstance(parsed[key], types):
            raise UserError(f"{where}: {key!r} must be text, got {parsed[key]!r}")
    for key in ("captions", "tags"):
        if not isinstance(parsed[key], list) or not all(isinstance(x, str) for x in parsed[key]):
            name = "caption" if key == "captions" and "caption" in row else key
            wanted = "text" if name == "caption" else "a list of texts"
            raise UserError(f"{where}: {name!r} must be {wanted}, got {row[name]!r}")
        parsed[key] = tuple(parsed[key])
    return row, parsed
