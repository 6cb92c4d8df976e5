"""A file with one JSON object a line, beside image files."""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

from vljax.config import UserError, setting
from vljax.data.files import as_path, read_bytes
from vljax.data.source_base import Annotation, ExampleError, Records, Source


@dataclass(frozen=True)
class JsonLines(Source, name="jsonl"):
    """Images listed in a JSON-lines file.

    A line is `{"image": "relative/path.jpg", "caption": "..."}`; instead of `caption` there may be
    a list `captions`, and further `tags` (a list) and `class` (a name). Keys that are not named
    here are left alone.

    Attributes:
      path: the file. Image paths in it are relative to its folder.
    """

    path: str | None = setting(None, path=True)

    @property
    def full_name(self) -> str:
        return f"jsonl:{as_path(self.path).name}" if self.path else "jsonl"

    @property
    def dataset(self) -> str:
        """The name of the file without its ending, so that files are told apart."""
        stem = PurePosixPath(self.path).stem if self.path else ""
        return re.sub(r"[^\w.+-]+", "_", stem) or self.type_name

    def open(self) -> Records:
        if self.path is None:
            raise UserError("data.source.path: unset; set --data.source.path to a JSON-lines file")
        return JsonLinesRecords(self.path)


class JsonLinesRecords(Records):
    """The examples of a JSON-lines file; images are read when asked for."""

    def __init__(self, path: str):
        file = as_path(path)
        content = read_bytes(path)
        lines = content.split(b"\n")
        rows = [
            _parse(line, f"{path}:{number}") for number, line in enumerate(lines, 1) if line.strip()
        ]
        self.identity = hashlib.sha256(content).hexdigest()
        self.class_names = tuple(sorted({row["class"] for row in rows if row["class"] is not None}))
        labels = {name: label for label, name in enumerate(self.class_names)}
        self._folder = file.parent
        self._images = [row["image"] for row in rows]
        self._annotations = [
            Annotation(row["captions"], row["tags"], labels.get(row["class"])) for row in rows
        ]

    def __len__(self) -> int:
        return len(self._images)

    def annotation(self, index: int) -> Annotation:
        return self._annotations[index]

    def image(self, index: int) -> bytes:
        name = self._images[index]
        try:
            content: bytes = (self._folder / name).read_bytes()
        except (OSError, ValueError) as error:  # ValueError: a null byte in the name
            reason = getattr(error, "strerror", None) or error
            raise ExampleError(
                f"image {name!r} cannot be read ({reason})", kind="unreadable"
            ) from error
        return content


def _parse(line: bytes, where: str) -> dict[str, Any]:
    """One line as a dict with `image`, `captions`, `tags` and `class` (or None)."""
    try:
        row = json.loads(line)
    except ValueError as error:
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
    return parsed
