"""Tar shards as WebDataset and img2dataset write them, read at random positions.

How a tar shard is read:

1. `tar_scan.py` reads a shard once from start to end and notes for each example the offset and size
   of its members (`KEY.jpg`, `KEY.txt`, ...). Filters are applied here.
2. `tar_index.py` scans all shards in parallel, and keeps the result on disk as one index.
3. `WebDatasetRecords` below looks up an example in the index and reads just the bytes of its
   members from the shard, locally or from an object store.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import UInt32

from vljax.config import UserError, setting
from vljax.data.records import ExampleError, Progress, log_progress
from vljax.data.sources.base import ColumnRecords, FileSource, LastRead, class_names_of
from vljax.data.sources.tar_index import TarIndex, open_index
from vljax.data.sources.tar_scan import (
    BLOCK,
    IndexOptions,
    columns_in,
    json_member,
    key_before,
    member_of,
    value_of,
)
from vljax.files import File, encodable, error_reason, read_range

# Members of an example are read by one request if that wastes at most this many bytes.
_MAX_GAP = 2**16


@dataclass(frozen=True)
class WebDataset(FileSource, name="webdataset"):
    """Examples in tar files: members with the same key (`KEY.jpg`, `KEY.txt`) form an example.

    Columns are named by the endings of members; `json.NAME` is an entry of the JSON member. A
    folder stands for the `.tar` files in it. An index of all members is built at the first use and
    kept; `vljax data index` builds it in advance.

    >>> import io, tarfile
    >>> with tarfile.open("00000.tar", "w") as tar:
    ...     for name, content in (("0.jpg", b"(jpeg)"), ("0.txt", b"a dog")):
    ...         member = tarfile.TarInfo(name)
    ...         member.size = len(content)
    ...         tar.addfile(member, io.BytesIO(content))
    >>> records = WebDataset("00000.tar").open()
    >>> records[0].captions, records[0].image
    (('a dog',), b'(jpeg)')
    """

    captions: tuple[str, ...] = ("txt",)
    """Columns with captions: `txt`, `json.caption`, ..."""
    label: str | None = None
    """Column with the class: `cls` or `json.NAME`."""
    image: tuple[str, ...] = ("jpg", "jpeg", "png", "webp", "gif", "bmp", "tif", "tiff")
    """Endings of images, in order of preference."""
    index_folder: str | None = setting(None, identity=False)
    """Folder for the index. By default `.vljax` beside the first shard, or the user's cache folder
    if that is not writable."""

    def open(self) -> WebDatasetRecords:
        return self.index(None, log_progress(self.full_name))

    def index(self, workers: int | None, progress: Progress) -> WebDatasetRecords:
        members = tuple(dict.fromkeys(member_of(column) for column in self.annotation_columns))
        return self._records(members, workers, progress)

    def open_with_all_columns(self, workers: int | None, progress: Progress) -> WebDatasetRecords:
        records = self.index(workers, progress)
        counts = records.counts.fields
        images = {ending for ending in counts if ending in self.image}
        # If some example has two images, the second one is a column like any other.
        single = sum(counts[ending] for ending in images) == len(records)
        others = sorted(counts.keys() - (images if single else set()))
        return self._records(tuple(dict.fromkeys((*records.members, *others))), workers, progress)

    def _records(
        self, members: tuple[str, ...], workers: int | None, progress: Progress
    ) -> WebDatasetRecords:
        shards = self.files("tar shards, such as DIR/{00000..00123}.tar", ".tar")
        options = IndexOptions(self.image, members, self.filters, self.label)
        index = open_index(
            shards, options, folder=self.index_folder, workers=workers, progress=progress
        )
        records = WebDatasetRecords(self, shards, members, index)
        if index.columns:
            columns = {*index.columns}
            plain = {c for c in self.annotation_columns if not c.startswith("json.")}
            if "json" in members and plain <= columns:
                # The index has the entries of the first JSON members only.
                columns = self.late_columns(columns, len(records), records.json_columns)
            self.check_columns(columns)
        return records


class WebDatasetRecords(ColumnRecords):
    """The examples of tar shards; each is read from its shard when it is asked for.

    Attributes:
      members: endings of the members that the index has besides the image.
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
        return self._read_members(shard, row[:1])[0] or b""

    def values(self, index: int) -> Callable[[str], Any]:
        contents = self._contents(index)
        return lambda column: value_of(column, contents[member_of(column)])

    def json_columns(self, index: int) -> Iterable[str]:
        """The columns in the JSON member of an example. Raises ExampleError if it is not valid."""
        content = self._contents(index)["json"]
        return () if content is None else columns_in(content)

    def other_columns(self, index: int) -> dict[str, Any]:
        """The key, the entries of the JSON member, and all other members as bytes."""
        shard, row = self._index.row(index)
        columns: dict[str, Any] = {"__key__": self._key(shard, int(row[0, 0]))}
        contents = self._contents(index)
        for ending, location in zip(self.members, row[1:], strict=True):
            content, is_image = contents[ending], (location == row[0]).all()
            if content is None or is_image or ending in self.source.restorable_columns:
                continue
            value = json_member(content) if ending == "json" else content
            entries = value if isinstance(value, dict) else {ending: value}
            for name, entry in entries.items():
                if name in columns:
                    shard_name = self._shards[shard].name
                    raise UserError(f"shard {shard_name}: {name!r} is a member and in the json too")
                if ending != "json" or f"json.{name}" not in self.source.restorable_columns:
                    columns[name] = entry
        return columns

    def _key(self, shard: int, block: int) -> str:
        """The key of the example whose image begins at a block; the index does not hold keys."""
        key = key_before(
            lambda blocks: self._read_range(shard, (block - blocks) * BLOCK, blocks * BLOCK), block
        )
        return encodable(key)

    def _contents(self, index: int) -> dict[str, bytes | None]:
        """The contents of all members of an example but its image, by ending."""

        def read() -> dict[str, bytes | None]:
            shard, row = self._index.row(index)
            return dict(zip(self.members, self._read_members(shard, row[1:]), strict=True))

        contents: dict[str, bytes | None] = self._last.get(index, read)
        return contents

    def _read_members(
        self, shard: int, locations: UInt32[np.ndarray, "members 2"]
    ) -> list[bytes | None]:
        """The contents of members of one example; None for a member that it does not have."""
        # Rows are (block, size). Block 0 is always a header, so it marks a missing member.
        present = [(int(block) * BLOCK, int(size)) for block, size in locations if block]
        if not present:
            return [None] * len(locations)
        first = min(start for start, _ in present)
        end = max(start + size for start, size in present)
        # Members of an example are mostly neighbours. A second request to an object store takes
        # longer than reading a few unused bytes.
        one_request = end - first <= sum(size for _, size in present) + _MAX_GAP
        whole = self._read_range(shard, first, end - first) if one_request else None
        contents: list[bytes | None] = []
        for block, size in locations.tolist():
            if not block:
                contents.append(None)
            elif whole is not None:
                start = block * BLOCK - first
                contents.append(whole[start : start + size])
            else:
                contents.append(self._read_range(shard, block * BLOCK, size))
        return contents

    def _read_range(self, shard: int, start: int, size: int) -> bytes:
        file = self._shards[shard]
        try:
            content = read_range(file.path, file.stamp, start, size)
        except OSError as error:
            raise ExampleError(
                f"shard {file.name} cannot be read ({error_reason(error)})", kind="unreadable"
            ) from error
        if len(content) != size:
            raise ExampleError(
                f"shard {file.name} is shorter than when it was indexed", kind="truncated"
            )
        return content
