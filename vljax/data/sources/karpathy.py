"""The split files of Karpathy and Fei-Fei (2015) for COCO, Flickr30k and Flickr8k."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import Any

from vljax.config import UserError, setting
from vljax.data.records import Annotation, ExampleError, Progress, Records, Source, dataset_name
from vljax.data.sources.base import image_file
from vljax.files import base_name, join, parent, read_user_file


@dataclass(frozen=True)
class Karpathy(Source, name="karpathy"):
    """A split of `dataset_coco.json` and the like: images with about five captions each."""

    path: str | None = setting(None, path=True)
    """The JSON file."""
    images: str | None = setting(None, path=True)
    """The folder with the images, where it is not the one that the file lies in. COCO's
    `val2014/...jpg` is looked for below it, and without the first part."""
    split: str = "test"
    """Which part: train, restval, val or test."""

    @property
    def full_name(self) -> str:
        return f"karpathy:{base_name(self.path)}" if self.path else "karpathy"

    @property
    def dataset(self) -> str:
        """The name of the file without its ending."""
        return dataset_name(self.path or "") or self.type_name

    @property
    def split_name(self) -> str:
        """The part."""
        return self.split

    def open(self) -> KarpathyRecords:
        return KarpathyRecords(self._path(), self.images, self.split)

    def open_with_all_columns(self, workers: int | None, progress: Progress) -> KarpathyRecords:
        return KarpathyRecords(self._path(), self.images, self.split, in_full=True)

    def _path(self) -> str:
        if self.path is None:
            raise UserError("data.source.path: unset; set --data.source.path to a dataset_*.json")
        return self.path


class KarpathyRecords(Records):
    """The examples of a part; images are read when asked for."""

    def __init__(self, path: str, images: str | None, split: str, *, in_full: bool = False):
        content = read_user_file(path)
        rows = _rows(content, path)
        own = [(where, row) for where, row in rows if row.get("split") == split]
        if not own:
            known = ", ".join(sorted({str(row.get("split")) for _, row in rows}))
            raise UserError(f"{path}: no image is of the split {split!r}; there are: {known}")
        self._folder = parent(path) if images is None else images
        self._images = [_text(row, "filename", where) for where, row in own]
        self._parents = [str(row.get("filepath") or "") for _, row in own]
        self._annotations = [Annotation(_captions(row, where)) for where, row in own]
        self._rows = [row for _, row in own] if in_full else None
        self.identity = hashlib.sha256(content + split.encode()).hexdigest()

    def __len__(self) -> int:
        return len(self._images)

    def annotation(self, index: int) -> Annotation:
        return self._annotations[index]

    def other_columns(self, index: int) -> dict[str, Any]:
        """The entries of the image; of its sentences, all but the captions."""
        if self._rows is None:
            return {}
        row = self._rows[index]
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
    """Each image, with the place that messages name."""
    try:
        data = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: no JSON ({error})") from error
    rows = data.get("images") if isinstance(data, dict) else None
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise UserError(f"{path}: no list 'images', so not a split file of Karpathy")
    return [(f"{path}: images.{i}", row) for i, row in enumerate(rows)]


def _captions(row: dict[str, Any], where: str) -> tuple[str, ...]:
    sentences = row.get("sentences")
    if not isinstance(sentences, list) or not all(isinstance(one, dict) for one in sentences):
        raise UserError(f"{where}.sentences: {sentences!r} is no list of sentences")
    return tuple(_text(one, "raw", f"{where}.sentences") for one in sentences)


def _text(row: dict[str, Any], key: str, where: str) -> str:
    if not isinstance(row.get(key), str):
        raise UserError(f"{where}: {key!r} must be text, got {row.get(key)!r}")
    return str(row[key])
