"""The built-in data set as a source: public-domain clip art with captions."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from vljax.config import UserError
from vljax.data.records import Source
from vljax.datasets.items import ItemRecords, read_items

DIRECTORY = Path(__file__).parent


@dataclass(frozen=True)
class Builtin(Source, name="builtin"):
    """The built-in data set: about 3,000 images of at most 128 x 128 pixels, with transparency.

    The class of an image is also one of its tags.

    >>> records = Builtin("test").open()
    >>> len(records), records.annotation(0).captions
    (424, ('2 dead frogs',))
    """

    split: Literal["train", "validation", "test"] = "train"
    """Which split to read; no caption occurs in more than one."""

    @property
    def full_name(self) -> str:
        return f"builtin:{self.split}"

    @property
    def split_name(self) -> str:
        return self.split

    def open(self) -> BuiltinRecords:
        return BuiltinRecords(DIRECTORY, self.split)


class BuiltinRecords(ItemRecords):
    """One split of a folder with `items.jsonl` and `images.array_record`.

    Line i of the first describes record i of the second, a WebP file with alpha.
    """

    def __init__(self, directory: Path, split: str):
        try:
            content = (directory / "items.jsonl").read_bytes()
        except OSError as error:
            raise UserError(f"{error.filename}: the built-in data set is not installed") from error
        items = read_items(content)
        chosen = [item for item in items if item["split"] == split]
        super().__init__(
            directory, items, chosen, lambda item: ((item["caption"],), _tags(item)), content
        )


def _tags(item: dict[str, Any]) -> tuple[str, ...]:
    return tuple(dict.fromkeys((*item["tags"], item["class"])))
