"""The data set interface: `Source` opens a data set, `Records` reads its examples by index.

A `Source` is a component of the recipe: where the data is and which columns to read. `open()`
returns `Records`, which give a `Record` (image file, captions, tags, label, ...) for each index.
"""

from __future__ import annotations

import abc
import logging
import math
import re
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any, Literal, get_args

import numpy as np
from jaxtyping import Int64

from vljax.config import Component, UserError, one_line
from vljax.files import encodable

RejectionKind = Literal[
    "unreadable",  # the file or record cannot be read
    "truncated",  # it ends too early
    "damaged",  # it is there, but its content is not valid
    "not_an_image",
    "too_many_pixels",
    "too_small",
    "transparent",
    "no_caption",
    "no_question",
    "bad_utf8",
    "other",
]
REJECTION_KINDS: tuple[RejectionKind, ...] = get_args(RejectionKind)
"""Why an example is rejected; metrics and reports count rejected examples by these kinds."""


class ExampleError(Exception):
    """Raised for an example that cannot be used: it stays in the batch, masked out.

    >>> raise ExampleError("image is cut off", kind="truncated")
    Traceback (most recent call last):
    vljax.data.records.ExampleError: image is cut off

    Args:
      message: one line, for people.
      kind: the kind that it is counted under.
    """

    def __init__(self, message: str, *, kind: RejectionKind = "other") -> None:
        super().__init__(one_line(message))
        self.kind = kind


def exceeds_limit(bad: int, seen: int, limit: float) -> bool:
    """Whether the share of rejected examples is above a limit by more than chance explains.

    >>> exceeds_limit(3, 10, 0.1), exceeds_limit(300, 1000, 0.1)
    (False, True)

    Args:
      bad: number of rejected examples.
      seen: number of examples.
      limit: the share that is allowed.
    """
    # Three standard deviations above the limit: chance among few examples stops nothing.
    return bad > limit * seen + 3 * math.sqrt(limit * (1 - limit) * seen)


def counts_by_kind(kinds: Mapping[str, int]) -> str:
    """Numbers of rejected examples in words, the most frequent kind first.

    >>> counts_by_kind({"damaged": 2, "no_question": 1200})
    'no_question 1,200, damaged 2'
    """
    most_first = sorted(kinds.items(), key=lambda item: (-item[1], item[0]))
    return ", ".join(f"{kind} {count:,}" for kind, count in most_first)


@dataclass(frozen=True)
class Region:
    """An object in an image."""

    name: str
    """Such as "cup of tea"."""
    box: tuple[int, int, int, int]
    """Left, top, right and bottom of the visible part, in pixels; right and bottom are
    exclusive."""
    colour: str | None = None
    """Name of the colour, if the object has a single one."""


@dataclass(frozen=True)
class Phrase:
    """A span of a caption that refers to regions."""

    caption: int
    """Index of the caption."""
    start: int
    """Index of the first character."""
    end: int
    """Index of the last character, plus one."""
    regions: tuple[int, ...]
    """Indices of the regions that it refers to."""


@dataclass(frozen=True)
class Question:
    """A question about an image."""

    kind: str
    """Such as "count" or "colour"; metrics are computed for each kind."""
    text: str
    """The question."""
    answer: str
    """The correct answer, or the most frequent one."""
    # Not in `repr`, like the fields of `Annotation` below.
    answers: tuple[tuple[str, float], ...] = field(default=(), repr=False)
    """All answers with weights, such as the number of people who gave them; empty if `answer` is
    the only one."""

    @property
    def weighted_answers(self) -> tuple[tuple[str, float], ...]:
        """All answers with their weights.

        >>> Question("count", "How many?", "2").weighted_answers
        (('2', 1.0),)
        """
        return self.answers or ((self.answer, 1.0),)


@dataclass(frozen=True)
class Annotation:
    """Captions, tags, label and other text of one image.

    >>> Annotation(("", "a dog")).first_caption
    'a dog'
    """

    captions: tuple[str, ...]
    """Descriptions of the image, in order of preference."""
    tags: tuple[str, ...] = ()
    """Keywords."""
    label: int | None = None
    """Index into `Records.class_names`."""
    # Not in `repr`: the identity of the built-in data sets is a hash of the `repr` of their
    # annotations, and these fields must not change it.
    regions: tuple[Region, ...] = field(default=(), repr=False)
    """Objects in the image."""
    phrases: tuple[Phrase, ...] = field(default=(), repr=False)
    """Spans of the captions that refer to regions."""
    questions: tuple[Question, ...] = field(default=(), repr=False)
    """Questions about the image, with their answers."""
    group: str | None = field(default=None, repr=False)
    """The group that the example belongs to, such as "waterbird on land"."""

    @property
    def first_caption(self) -> str:
        """The first caption that is not blank, or an empty string."""
        return next((caption for caption in self.captions if caption.strip()), "")


@dataclass(frozen=True, kw_only=True)
class Record(Annotation):
    """One example as stored."""

    image: bytes
    """An encoded image file (JPEG, PNG, WebP, ...)."""
    more_images: tuple[bytes, ...] = ()
    """Further image files of an example of several images, such as the second of NLVR2."""
    masks: bytes | None = None
    """Lossless grey image file of the same size as the image: i + 1 where region i is visible,
    0 elsewhere."""


def is_nan(value: Any) -> bool:
    """Whether a value is NaN, with which tables mark a missing value.

    >>> is_nan(float("nan")), is_nan("nan"), is_nan(None)
    (True, False, False)
    """
    return isinstance(value, float | np.floating) and bool(np.isnan(value))


class Records(abc.ABC):
    """An opened data set with random access, safe to read from threads and to pickle."""

    class_names: tuple[str, ...] = ()
    """Names of the classes, by label; empty if the data has no classes."""
    identity: str
    """Hash that changes when the data set changes; a run resumes only if it is the same."""
    image_count: int = 1
    """Number of images of each example."""
    counts: SourceCounts | None = None
    """Numbers of files, examples and fields, if they were counted when the data set was opened."""

    @abc.abstractmethod
    def __len__(self) -> int: ...

    @abc.abstractmethod
    def annotation(self, index: int) -> Annotation:
        """Captions, tags and label of an example, without reading its image.

        Raises:
          ExampleError: if they cannot be read.
        """

    @abc.abstractmethod
    def image(self, index: int) -> bytes:
        """The encoded image of an example. Raises ExampleError if it cannot be read."""

    def more_images(self, index: int) -> tuple[bytes, ...]:
        """`Record.more_images` of an example. Raises ExampleError if one cannot be read."""
        return ()

    def image_numbers(self) -> Int64[np.ndarray, " examples"]:
        """A number for the image of each example; examples about the same image have the same."""
        return np.arange(len(self))

    def masks(self, index: int) -> bytes | None:
        """`Record.masks` of an example; None where the data has none."""
        return None

    def other_columns(self, index: int) -> dict[str, Any]:
        """Columns of an example that its `Record` does not hold, for conversion.

        Values are JSON data, bytes, dates and the like. Complete only if the data set was opened by
        `Source.open_with_all_columns`.

        Raises:
          ExampleError: if they cannot be read.
        """
        return {}

    def __getitem__(self, index: int) -> Record:
        """The whole example. Raises ExampleError if it cannot be read."""
        about = self.annotation(index)
        return Record(
            **vars(about),
            image=self.image(index),
            more_images=self.more_images(index),
            masks=self.masks(index),
        )


class Source(Component, abc.ABC):
    """A data set as a recipe names it. Members are named by the format that they read.

    >>> from vljax.datasets import Builtin
    >>> source = Builtin("test")
    >>> source.full_name, source.dataset, source.split_name
    ('builtin:test', 'builtin', 'test')
    >>> source.open()[0].image[:4]
    b'RIFF'
    """

    @property
    @abc.abstractmethod
    def full_name(self) -> str:
        """Name in messages and in the keys of random numbers; the same on every machine."""

    @property
    def dataset(self) -> str:
        """Name of the data set in metric names, without "/"."""
        return self.type_name

    @property
    def split_name(self) -> str:
        """Name of the split in metric names, without "/"; "all" if there are no splits."""
        return "all"

    @abc.abstractmethod
    def open(self) -> Records:
        """Opens the data set. Raises UserError if its path is unset, missing or malformed."""

    def index(self, workers: int | None, progress: Progress) -> Records:
        """Opens the data set as `open` does, with control over how its index is built.

        Args:
          workers: number of processes that build the index; None means one per core.
          progress: called with the number of shards that are done and the total.

        Raises:
          UserError: as `open` does.
        """
        return self.open()

    def open_with_all_columns(self, workers: int | None, progress: Progress) -> Records:
        """Opens the data set with all its columns, including those that training does not read.

        Args:
          workers: as in `index`.
          progress: as in `index`.

        Raises:
          UserError: as `open` does.
        """
        return self.index(workers, progress)


def error_for_field(error: UserError, field: str) -> UserError:
    """The error with the field of its source in place of `data.source`, which sources always name.

    >>> str(error_for_field(UserError("data.source.path: unset"), "evaluators.retrieval.source"))
    'evaluators.retrieval.source.path: unset'
    """
    return UserError(str(error).replace("data.source.", f"{field}."))


def dataset_name(file: str) -> str:
    """The name of a data set in metric names, from a file name; "" if there is none.

    >>> dataset_name("/data/my flowers.jsonl")
    'my_flowers'
    """
    return re.sub(r"[^\w.+-]+", "_", PurePosixPath(file).stem)


# --- Progress and counts of opening a source ------------------------------------------------------

logger = logging.getLogger(__name__)

# Number of left-out examples that are named for each reason.
_NAMED = 5
_SECONDS_BETWEEN_LINES = 10

# What this process has logged: source, reason and count.
_logged: set[tuple[str, str, int]] = set()

Progress = Callable[[int, int], None]
"""Called with the amount that is done and the total."""

INDEXED_SHARDS = "indexed {:,} of {:,} shards"


def log_progress(name: str, template: str = INDEXED_SHARDS) -> Progress:
    """A `Progress` that logs a line every 10 s, for use without a progress bar.

    Args:
      name: of the source.
      template: format string with two fields: the amount that is done and the total.
    """
    last = time.monotonic()

    def progress(done: int, total: int) -> None:
        nonlocal last
        if time.monotonic() - last >= _SECONDS_BETWEEN_LINES:
            last = time.monotonic()
            logger.warning("%s: %s", name, template.format(done, total))

    return progress


@dataclass
class SourceCounts:
    """Numbers of files, examples and fields of a source, counted when it is opened or indexed."""

    files: int = 0
    """Number of files (shards)."""
    examples: int = 0
    """Number of examples that filters keep."""
    fields: dict[str, int] = field(default_factory=dict)
    """For each field, the number of examples that have it."""
    left_out: dict[str, int] = field(default_factory=dict)
    """For each reason, the number of examples or archive members that are left out."""
    named: dict[str, list[str]] = field(default_factory=dict)
    """For each reason, the names of the first few that are left out."""

    def leave_out(self, reason: str, name: str) -> None:
        """Counts an example that is left out."""
        reason, name = encodable(reason), encodable(name)
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
        """Logs the number of examples left out, one line per reason."""
        for reason, count in self.left_out.items():
            if (source, reason, count) in _logged:  # a run opens the same source several times
                continue
            _logged.add((source, reason, count))
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
