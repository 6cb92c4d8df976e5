"""Tar shards as WebDataset and img2dataset write them, with random access."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import UInt32

from vljax.config import UserError, setting
from vljax.data.records import ExampleError, Progress, log_progress
from vljax.data.sources.base import ColumnRecords, FileSource, LastRead, class_names_of
from vljax.data.sources.tar_index import TarIndex, open_index
from vljax.data.sources.tar_scan import BLOCK, Wanted, json_of, key_before, member_of, value_of
from vljax.files import File, read_range

_GAP = 2**16  # bytes read in vain rather than asking twice


@dataclass(frozen=True)
class WebDataset(FileSource, name="webdataset"):
    """Examples in tar files: `KEY.jpg`, `KEY.txt`, `KEY.json`, ... belong together.

    Columns are named by the endings of members, and `json.NAME` is an entry of the JSON member. A
    folder stands for the `.tar` files in it. An index of where everything is is built at the first
    use and kept; `vljax data index` builds it beforehand.

    Attributes:
      label: `cls` or `json.NAME`.
    """

    captions: tuple[str, ...] = ("txt",)
    """`txt`, `json.caption`, ..."""
    image: tuple[str, ...] = ("jpg", "jpeg", "png", "webp", "gif", "bmp", "tif", "tiff")
    """Endings of images, in order of preference."""
    index_folder: str | None = setting(None, identity=False)
    """Where the index is kept: by default in `.vljax` beside the first shard, or in the user's
    cache folder where that cannot be written to."""

    def open(self) -> WebDatasetRecords:
        return self.index(None, log_progress(self.full_name))

    def index(self, workers: int | None, progress: Progress) -> WebDatasetRecords:
        members = tuple(dict.fromkeys(member_of(column) for column in self.annotation_columns))
        return self._records(members, workers, progress)

    def open_with_all_columns(self, workers: int | None, progress: Progress) -> WebDatasetRecords:
        chosen = self.index(workers, progress)
        counts = chosen.counts.fields
        images = {ending for ending in counts if ending in self.image}
        # Where no example has two, the image is the only one.
        alone = sum(counts[ending] for ending in images) == len(chosen)
        members = dict.fromkeys(
            (*chosen.members, *sorted(counts.keys() - (images if alone else ())))
        )
        return self._records(tuple(members), workers, progress)

    def _records(
        self, members: tuple[str, ...], workers: int | None, progress: Progress
    ) -> WebDatasetRecords:
        shards = self.files("tar shards, such as DIR/{00000..00123}.tar", ".tar")
        wanted = Wanted(self.image, members, self.filters, self.label)
        index = open_index(
            shards, wanted, folder=self.index_folder, workers=workers, progress=progress
        )
        if index.columns:
            self.check_columns(index.columns)
        return WebDatasetRecords(self, shards, members, index)


class WebDatasetRecords(ColumnRecords):
    """The examples of tar shards; each is read from its shard when asked for.

    Attributes:
      members: endings of the members that are read beside the image.
    """

    def __init__(
        self, source: WebDataset, shards: list[File], members: tuple[str, ...], index: TarIndex
    ):
        super().__init__(source, class_names_of(index.classes))
        self._shards = shards
        self.members = members
        self._index = index
        self._last = LastRead()
        self.identity = source.identity(index.identity)
        self.counts = index.counts
        self.counts.log(source.full_name)

    def __len__(self) -> int:
        return len(self._index)

    def image(self, index: int) -> bytes:
        shard, row = self._index.row(index)
        return self._read(shard, row[:1])[0] or b""

    def values(self, index: int) -> Callable[[str], Any]:
        contents = self._texts(index)
        return lambda column: value_of(column, contents[member_of(column)])

    def other_columns(self, index: int) -> dict[str, Any]:
        """The key, the entries of the JSON member, and the other members as they are."""
        shard, row = self._index.row(index)
        columns: dict[str, Any] = {"__key__": self._key(shard, int(row[0, 0]))}
        contents = self._texts(index)
        for ending, place in zip(self.members, row[1:], strict=True):
            content, is_image = contents[ending], (place == row[0]).all()
            if content is None or is_image or ending in self.source.covered:
                continue
            value = json_of(content) if ending == "json" else content
            entries = value if isinstance(value, dict) else {ending: value}
            for name, entry in entries.items():
                if name in columns:
                    shard_name = self._shards[shard].name
                    raise UserError(f"shard {shard_name}: {name!r} is a member and in the json too")
                if ending != "json" or f"json.{name}" not in self.source.covered:
                    columns[name] = entry
        return columns

    def _key(self, shard: int, block: int) -> str:
        """The key of the example whose image begins at a block, from the header before it."""
        return key_before(
            lambda blocks: self._range(shard, (block - blocks) * BLOCK, blocks * BLOCK), block
        )

    def _texts(self, index: int) -> dict[str, bytes | None]:
        """The contents of the members that describe an example, by their endings."""

        def read() -> dict[str, bytes | None]:
            shard, row = self._index.row(index)
            return dict(zip(self.members, self._read(shard, row[1:]), strict=True))

        contents: dict[str, bytes | None] = self._last.get(index, read)
        return contents

    def _read(self, shard: int, places: UInt32[np.ndarray, "members 2"]) -> list[bytes | None]:
        """Members of one example, in one piece where they lie together; None for one not there."""
        there = [(int(block) * BLOCK, int(size)) for block, size in places if block]
        if not there:
            return [None] * len(places)
        first, end = min(start for start, _ in there), max(start + size for start, size in there)
        together = end - first <= sum(size for _, size in there) + _GAP
        whole = self._range(shard, first, end - first) if together else None
        contents: list[bytes | None] = []
        for block, size in places.tolist():
            if not block:
                contents.append(None)
            elif whole is not None:
                start = block * BLOCK - first
                contents.append(whole[start : start + size])
            else:
                contents.append(self._range(shard, block * BLOCK, size))
        return contents

    def _range(self, shard: int, start: int, size: int) -> bytes:
        file = self._shards[shard]
        try:
            content = read_range(file.path, file.stamp, start, size)
        except OSError as error:
            reason = error.strerror or error
            raise ExampleError(
                f"shard {file.name} cannot be read ({reason})", kind="unreadable"
            ) from error
        if len(content) != size:
            raise ExampleError(
                f"shard {file.name} is shorter than when it was indexed", kind="truncated"
            )
        return content
