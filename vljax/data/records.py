"""What a data set is: records by index, and the component that opens them."""

from __future__ import annotations

import abc
import logging
import re
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any, Literal, get_args

from vljax.config import Component, UserError

RejectionKind = Literal[
    "unreadable",  # the file or record
    "truncated",
    "damaged",
    "not_an_image",
    "too_many_pixels",
    "too_small",
    "transparent",
    "no_caption",
    "bad_utf8",
    "other",
]
REJECTION_KINDS: tuple[RejectionKind, ...] = get_args(RejectionKind)
"""The classes of reasons for which examples cannot be used."""


class ExampleError(Exception):
    """Why an example cannot be used. It keeps its slot in the batch, masked out.

    Args:
      message: for people, on one line.
      kind: the class that it is counted in.
    """

    def __init__(self, message: str, *, kind: RejectionKind = "other") -> None:
        super().__init__(message)
        self.kind = kind


@dataclass(frozen=True)
class Region:
    """An object in an image."""

    name: str
    """What it is, such as "cup of tea"."""
    box: tuple[int, int, int, int]
    """Left, top, right and bottom of what is seen of it, in pixels; the last two are one past the
    last pixel."""
    colour: str | None = None
    """Its name, if the object has one colour."""


@dataclass(frozen=True)
class Phrase:
    """A part of a caption that speaks of regions."""

    caption: int
    """Index of the caption."""
    start: int
    """The first character."""
    end: int
    """One past the last character."""
    regions: tuple[int, ...]
    """Indices of the regions."""


@dataclass(frozen=True)
class Question:
    """A question about an image."""

    kind: str
    """Questions of a kind are answered by the same means, and evaluated together."""
    text: str
    """The question."""
    answer: str
    """The one right answer."""


@dataclass(frozen=True)
class Annotation:
    """What is written about one image."""

    captions: tuple[str, ...]
    """Descriptions of the image in order of preference."""
    tags: tuple[str, ...] = ()
    """Keywords."""
    label: int | None = None
    """Index into the class names of the data set."""
    # Not in `repr`, which enters the identity of data sets that have none of these.
    regions: tuple[Region, ...] = field(default=(), repr=False)
    """Objects in the image."""
    phrases: tuple[Phrase, ...] = field(default=(), repr=False)
    """Where the captions speak of them."""
    questions: tuple[Question, ...] = field(default=(), repr=False)
    """With their answers."""

    @property
    def first_caption(self) -> str:
        """The first caption that is not blank, or an empty string."""
        return next((caption for caption in self.captions if caption.strip()), "")


@dataclass(frozen=True, kw_only=True)
class Record(Annotation):
    """One example as stored."""

    image: bytes
    """An encoded image file (JPEG, PNG, WebP, ...)."""
    masks: bytes | None = None
    """A grey image file without loss, as large as the image: i + 1 where region i is seen, else
    0."""


class Records(abc.ABC):
    """An opened data set with random access, safe to read from threads and to pickle."""

    class_names: tuple[str, ...] = ()
    """Names that labels point to; empty where the data has no classes."""
    identity: str
    """A hash that changes when the data set changes."""
    counts: SourceCounts | None = None
    """What was counted when the data set was opened; None where nothing is."""

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

    def masks(self, index: int) -> bytes | None:
        """`Record.masks` of an example; None where the data has none."""
        return None

    def other_columns(self, index: int) -> dict[str, Any]:
        """What else is stored with an example, by column: all that its `Record` does not hold.

        Values are those of JSON, bytes, dates and the like. Complete where the data set was opened
        by `Source.open_with_all_columns`. Raises ExampleError if it cannot be read.
        """
        return {}

    def __getitem__(self, index: int) -> Record:
        """An example in full. Raises ExampleError if its image cannot be read."""
        about = self.annotation(index)
        return Record(**vars(about), image=self.image(index), masks=self.masks(index))


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

    def open_with_all_columns(self, workers: int | None, progress: Progress) -> Records:
        """Opens the data set with all its columns, those that training has no use for too.

        Args:
          workers: as in `index`.
          progress: as in `index`.

        Raises:
          UserError: as `open` does.
        """
        return self.index(workers, progress)


def error_for_field(error: UserError, field: str) -> UserError:
    """An error about a source, which sources say of `data.source`, said of another field."""
    return UserError(str(error).replace("data.source.", f"{field}."))


def dataset_name(file: str) -> str:
    """A file name as the name of a data set in metric names; "" if there is none."""
    return re.sub(r"[^\w.+-]+", "_", PurePosixPath(file).stem)


# --- What was counted when a source was opened or indexed -----------------------------------------

logger = logging.getLogger(__name__)

# How many of the examples left out for one reason are named.
_NAMED = 5
_SECONDS_BETWEEN_LINES = 10

# Of this process: source, reason and count.
_said: set[tuple[str, str, int]] = set()

Progress = Callable[[int, int], None]
"""Called with what is done and what there is to do."""

INDEXED_SHARDS = "indexed {:,} of {:,} shards"


def log_progress(name: str, what: str = INDEXED_SHARDS) -> Progress:
    """Says a line now and then, where no bar can be drawn.

    Args:
      name: of the source.
      what: the words, with places for what is done and what there is to do.
    """
    last = time.monotonic()

    def progress(done: int, total: int) -> None:
        nonlocal last
        if time.monotonic() - last >= _SECONDS_BETWEEN_LINES:
            last = time.monotonic()
            logger.warning("%s: %s", name, what.format(done, total))

    return progress


@dataclass
class SourceCounts:
    """Counts of a source."""

    files: int = 0
    """Files that hold it (shards)."""
    examples: int = 0
    """Those that are left."""
    fields: dict[str, int] = field(default_factory=dict)
    """By the name of a field, how many of these have it."""
    left_out: dict[str, int] = field(default_factory=dict)
    """By reason, how many examples or members of archives are not used."""
    named: dict[str, list[str]] = field(default_factory=dict)
    """By reason, the first of them."""

    def leave_out(self, reason: str, name: str) -> None:
        """Counts an example that is not used."""
        self.left_out[reason] = self.left_out.get(reason, 0) + 1
        names = self.named.setdefault(reason, [])
        if len(names) < _NAMED:
            names.append(name)

    def add_example(self, fields: Iterable[str]) -> None:
        """Counts an example that has these fields."""
        self.examples += 1
        for name in fields:
            self.fields[name] = self.fields.get(name, 0) + 1

    def merge(self, other: SourceCounts) -> None:
        """Adds the counts of another part of the same source."""
        self.files += other.files
        self.examples += other.examples
        for name, count in other.fields.items():
            self.fields[name] = self.fields.get(name, 0) + count
        for reason, count in other.left_out.items():
            self.left_out[reason] = self.left_out.get(reason, 0) + count
            names = [*self.named.get(reason, []), *other.named.get(reason, [])]
            self.named[reason] = names[:_NAMED]

    def log(self, source: str) -> None:
        """Says what was left out, a line for each reason."""
        for reason, count in self.left_out.items():
            if (source, reason, count) in _said:  # a run opens the same source several times
                continue
            _said.add((source, reason, count))
            names = ", ".join(self.named[reason])
            more = ", ..." if count > len(self.named[reason]) else ""
            logger.warning("%s: left out %d: %s (%s%s)", source, count, reason, names, more)

    def as_dict(self) -> dict[str, Any]:
        """As JSON data."""
        return {
            "files": self.files,
            "examples": self.examples,
            "fields": self.fields,
            "left_out": self.left_out,
            "named": self.named,
        }
