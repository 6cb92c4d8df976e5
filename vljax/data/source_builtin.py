"""The data set inside the package: public-domain clip art with captions."""

from __future__ import annotations

import functools
import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from vljax.config import UserError
from vljax.data.source_base import Annotation, ExampleError, Records, Source

DIRECTORY = Path(__file__).parent / "builtin"


@dataclass(frozen=True)
class Builtin(Source, name="builtin"):
    """The built-in data set: about 3,000 images of at most 128 pixels a side, with transparency.

    The class of an image is one of its tags too.

    Attributes:
      split: no caption occurs in more than one split.
    """

    split: Literal["train", "validation", "test"] = "train"

    @property
    def full_name(self) -> str:
        return f"builtin:{self.split}"

    @property
    def split_name(self) -> str:
        return self.split

    def open(self) -> Records:
        return BuiltinRecords(DIRECTORY, self.split)


class BuiltinRecords(Records):
    """One split of a folder with `items.jsonl` and `images.array_record`.

    Line i of the first describes record i of the second, a WebP file with alpha. Class names are
    those of all splits, sorted, so that labels mean the same in each.
    """

    def __init__(self, directory: Path, split: str):
        try:
            index = (directory / "items.jsonl").read_bytes()
        except OSError as error:
            raise UserError(f"{error.filename}: the built-in data set is not installed") from error
        items = [json.loads(line) for line in index.splitlines()]
        self.class_names = tuple(sorted({item["class"] for item in items}))
        self._images_path = directory / "images.array_record"
        labels = {name: label for label, name in enumerate(self.class_names)}
        chosen = [item for item in items if item["split"] == split]
        self._positions = [item["index"] for item in chosen]
        self._annotations = [
            Annotation((item["caption"],), _tags(item), labels[item["class"]]) for item in chosen
        ]
        # Annotations are more than a copy of the file: the same file may come to be read otherwise.
        self.identity = hashlib.sha256(index + repr(self._annotations).encode()).hexdigest()

    def __len__(self) -> int:
        return len(self._annotations)

    def annotation(self, index: int) -> Annotation:
        return self._annotations[index]

    def image(self, index: int) -> bytes:
        try:
            return bytes(self._images[self._positions[index]])
        except (OSError, RuntimeError, ValueError) as error:
            raise ExampleError(f"image cannot be read ({error})", kind="unreadable") from error

    @functools.cached_property
    def _images(self) -> Any:
        from array_record.python.array_record_data_source import ArrayRecordDataSource

        return ArrayRecordDataSource(str(self._images_path))


def _tags(item: dict[str, Any]) -> tuple[str, ...]:
    return tuple(dict.fromkeys((*item["tags"], item["class"])))
