"""The Karpathy splits of COCO, Flickr30k and Flickr8k (Karpathy and Fei-Fei 2015)."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any

from vljax.config import UserError, setting
from vljax.data.records import (
    Annotation,
    ExampleError,
    Progress,
    Record,
    Records,
    Source,
    dataset_name,
)
from vljax.data.sources.base import image_file, texts
from vljax.files import base_name, join, parent, parse_json, read_user_file


@dataclass(frozen=True)
class Karpathy(Source, name="karpathy"):
    """A split of `dataset_coco.json` or a similar file: images with about five captions each.

    >>> import json
    >>> image = {"filename": "0.jpg", "split": "test", "sentences": [{"raw": "a dog"}]}
    >>> with open("dataset_pets.json", "w") as file:
    ...     json.dump({"images": [image]}, file)
    >>> Karpathy("dataset_pets.json", split="test").open().annotation(0).captions
    ('a dog',)
    """

    path: str | None = setting(None, path=True)
    """The JSON file."""
    images: str | None = setting(None, path=True)
    """Folder with the images; by default the folder of the file. COCO's `val2014/NAME.jpg` is read
    from `val2014` in it, or from the folder itself."""
    split: str = "test"
    """The split: train, restval, val or test."""

    @property
    def full_name(self) -> str:
        return f"karpathy:{base_name(self.path)}" if self.path else "karpathy"

    @property
    def dataset(self) -> str:
        """The name of the file without its ending."""
        return dataset_name(self.path or "") or self.type_name

    @property
    def split_name(self) -> str:
        return self.split

    def open(self) -> KarpathyRecords:
        return KarpathyRecords(self._path(), self.images, self.split)

    def open_with_all_columns(self, workers: int | None, progress: Progress) -> KarpathyRecords:
        return KarpathyRecords(self._path(), self.images, self.split, all_columns=True)

    def _path(self) -> str:
        if self.path is None:
            raise UserError("data.source.path: unset; set --data.source.path to a dataset_*.json")
        return self.path


class KarpathyRecords(Records):
    """The examples of a split; an image is read when it is asked for."""

    def __init__(self, path: str, images: str | None, split: str, *, all_columns: bool = False):
        content = read_user_file(path)
        rows = _rows(content, path)
        own = [(where, row) for where, row in rows if row.get("split") == split]
        if not own:
            known = ", ".join(sorted({str(row.get("split")) for _, row in rows}))
            raise UserError(f"{path}: no image is of the split {split!r}; there are: {known}")
        self._folder = parent(path) if images is None else images
        self._problems: dict[int, str] = {}
        for i, (where, row) in enumerate(own):
            if (problem := _problem(row)) is not None:
                self._problems[i] = f"{where}{problem}"
        if len(self._problems) == len(own):
            raise UserError(self._problems[0])
        self._images = [str(row.get("filename")) for _, row in own]
        self._parents = [str(row.get("filepath") or "") for _, row in own]
        self._annotations = [
            Annotation(() if i in self._problems else _captions(row))
            for i, (_, row) in enumerate(own)
        ]
        self._rows = [row for _, row in own] if all_columns else None
        self.identity = hashlib.sha256(content + split.encode()).hexdigest()

    def __len__(self) -> int:
        return len(self._images)

    def annotation(self, index: int) -> Annotation:
        return self._annotations[index]

    def __getitem__(self, index: int) -> Record:
        if index in self._problems:
            raise ExampleError(self._problems[index], kind="damaged")
        return super().__getitem__(index)

    def other_columns(self, index: int) -> dict[str, Any]:
        """All entries of the image; its sentences without the captions."""
        if self._rows is None:
            return {}
        row = self._rows[index]
        if index in self._problems:
            return row
        sentences = [{k: v for k, v in one.items() if k != "raw"} for one in row["sentences"]]
        return {**row, "sentences": sentences}

    def image(self, index: int) -> bytes:
        name, parent = self._images[index], self._parents[index]
        try:
            return image_file(join(parent, name) if parent else name, self._folder)
        except ExampleError:
            if not parent:
                raise
            return image_file(name, self._folder)


def _rows(content: bytes, path: str) -> list[tuple[str, dict[str, Any]]]:
    """The entries of all images, each with its location in the file for error messages."""
    try:
        data = parse_json(content)
    except ValueError as error:
        raise UserError(f"{path}: not JSON ({error})") from error
    rows = data.get("images") if isinstance(data, dict) else None
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise UserError(f"{path}: no list 'images', so not a split file of Karpathy")
    return [(f"{path}: images.{i}", row) for i, row in enumerate(rows)]


def _problem(row: dict[str, Any]) -> str | None:
    """Why an image cannot be used; None if it can. A sentence without text is not a problem."""
    if not isinstance(row.get("filename"), str):
        return f": 'filename' must be text, got {row.get('filename')!r}"
    sentences = row.get("sentences")
    if not isinstance(sentences, list) or not all(isinstance(one, dict) for one in sentences):
        return f".sentences: {sentences!r} is not a list of sentences"
    for one in sentences:
        if not isinstance(one.get("raw"), str | None):
            return f".sentences: 'raw' must be text, got {one.get('raw')!r}"
    return None


def _captions(row: dict[str, Any]) -> tuple[str, ...]:
    return tuple(text for one in row["sentences"] for text in texts(one.get("raw"), "raw"))
