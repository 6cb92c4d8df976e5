"""The files of the built-in set and of the stamps: `items.jsonl` and `images.array_record`."""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from vljax.data.records import Annotation, ExampleError, Records

Item = dict[str, Any]

# Keys that the annotation holds, and the index of the image; all others are other columns.
_COVERED = ("index", "caption", "captions", "tags", "class")


def read_items(content: bytes) -> list[Item]:
    """Parse an `items.jsonl`: line i describes record i of `images.array_record`."""
    return [json.loads(line) for line in content.splitlines()]


class ItemRecords(Records):
    """Some items of a folder, such as one split.

    Class names come from all items of the folder, so that labels mean the same in each split.

    Args:
      directory: the folder.
      items: all items of the folder.
      chosen: the items to use.
      annotate: returns captions and tags of an item.
      content: content of `items.jsonl`, for the identity.
    """

    def __init__(
        self,
        directory: Path,
        items: Sequence[Item],
        chosen: Sequence[Item],
        annotate: Callable[[Item], tuple[tuple[str, ...], tuple[str, ...]]],
        content: bytes,
    ):
        self.class_names = tuple(sorted({item["class"] for item in items}))
        self._images_path = directory / "images.array_record"
        labels = {name: label for label, name in enumerate(self.class_names)}
        self._items = chosen
        self._annotations = [Annotation(*annotate(item), labels[item["class"]]) for item in chosen]
        # Includes the annotations: a later version may read other annotations from the same file.
        self.identity = hashlib.sha256(content + repr(self._annotations).encode()).hexdigest()

    def __len__(self) -> int:
        return len(self._annotations)

    def annotation(self, index: int) -> Annotation:
        return self._annotations[index]

    def image(self, index: int) -> bytes:
        try:
            return bytes(self._images[self._items[index]["index"]])
        except (OSError, RuntimeError, ValueError) as error:
            raise ExampleError(f"image cannot be read ({error})", kind="unreadable") from error

    def other_columns(self, index: int) -> dict[str, Any]:
        item = self._items[index]
        columns = {key: value for key, value in item.items() if key not in _COVERED}
        # The annotation has only the captions in the selected languages.
        return columns | ({"captions_by_language": item["captions"]} if "captions" in item else {})

    @functools.cached_property
    def _images(self) -> Any:
        from array_record.python.array_record_data_source import ArrayRecordDataSource

        return ArrayRecordDataSource(str(self._images_path))
