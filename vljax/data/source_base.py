"""What a data set is: records by index, and the component that opens them."""

from __future__ import annotations

import abc
import re
from dataclasses import dataclass
from pathlib import PurePosixPath

from vljax.config import Component
from vljax.data.accounting import Accounting, Progress


class ExampleError(Exception):
    """Why an example cannot be used. It keeps its slot in the batch, masked out.

    Args:
      message: for people, on one line.
      kind: the class that it is counted in, a name in small letters and `_`. In use are:
        `unreadable` (the file or record), `truncated`, `damaged`, `not_an_image`,
        `too_many_pixels`, `no_caption`, `bad_utf8`; and `other`.
    """

    def __init__(self, message: str, *, kind: str = "other") -> None:
        super().__init__(message)
        self.kind = kind


@dataclass(frozen=True)
class Annotation:
    """What is written about one image.

    Attributes:
      captions: descriptions of the image in order of preference.
      tags: keywords.
      label: index into the class names of the data set.
    """

    captions: tuple[str, ...]
    tags: tuple[str, ...] = ()
    label: int | None = None

    @property
    def first_caption(self) -> str:
        """The first caption that is not blank, or an empty string."""
        return next((caption for caption in self.captions if caption.strip()), "")


@dataclass(frozen=True, kw_only=True)
class Record(Annotation):
    """One example as stored.

    Attributes:
      image: an encoded image file (JPEG, PNG, WebP, ...).
    """

    image: bytes


class Records(abc.ABC):
    """An opened data set with random access, safe to read from threads and to pickle.

    Attributes:
      class_names: names that labels point to; empty where the data has no classes.
      identity: a hash that changes when the data set changes.
      accounting: what was counted when the data set was opened; None where nothing is.
    """

    class_names: tuple[str, ...] = ()
    identity: str
    accounting: Accounting | None = None

    @abc.abstractmethod
    def __len__(self) -> int: ...

    @abc.abstractmethod
    def annotation(self, index: int) -> Annotation:
        """Captions, tags and label of an example, without reading its image.

        Raises ExampleError if they cannot be read.
        """

    @abc.abstractmethod
    def image(self, index: int) -> bytes:
        """The encoded image of an example. Raises ExampleError if it cannot be read."""

    def __getitem__(self, index: int) -> Record:
        """An example in full. Raises ExampleError if its image cannot be read."""
        about = self.annotation(index)
        return Record(about.captions, about.tags, about.label, image=self.image(index))


class Source(Component, abc.ABC):
    """Where examples come from. Members are named by the format they read."""

    @property
    @abc.abstractmethod
    def full_name(self) -> str:
        """The name in messages and in the keys of random numbers, free of machine paths."""

    @property
    def dataset(self) -> str:
        """The name of the data set in metric names, without "/"."""
        return self.type_name

    @property
    def split_name(self) -> str:
        """The name of the part in metric names, without "/"; "all" where there are no parts."""
        return "all"

    @abc.abstractmethod
    def open(self) -> Records:
        """Opens the data set. Raises UserError if it is unset, missing or malformed."""

    def index(self, workers: int | None, progress: Progress) -> Records:
        """Opens the data set like `open`, which builds its index if it needs one.

        Args:
          workers: processes that build it; as many as there are cores where it is None.
          progress: is told the shards done and all there are.

        Raises:
          UserError: as `open` does.
        """
        return self.open()


def dataset_name(file: str) -> str:
    """A file name as the name of a data set in metric names; "" if there is none."""
    return re.sub(r"[^\w.+-]+", "_", PurePosixPath(file).stem)
