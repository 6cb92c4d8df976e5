"""One row for each question or caption of another source."""

from __future__ import annotations

import hashlib
import logging
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from jaxtyping import Int64

from vljax.config import UserError
from vljax.data.cache import cached
from vljax.data.records import (
    Annotation,
    ExampleError,
    Progress,
    Record,
    Records,
    Source,
    SourceCounts,
    log_progress,
)
from vljax.data.sources.mixture import Mixture

logger = logging.getLogger(__name__)

# Opening is logged if it takes longer.
_QUIET_SECONDS = 2.0


@dataclass(frozen=True)
class Expand(Source, name="expand"):
    """Another source with one row for each question, or each caption that is not blank.

    Rows are in the order of the records, and of the questions in a record. A record without any
    gives no row; one whose annotation cannot be used is counted and named in the log. The first
    opening reads the annotations of all records, but no image, and keeps the number of rows of each
    record in the user's cache folder.

    >>> from vljax.datasets import Scenes
    >>> scenes = Scenes(size=64, examples=20, max_objects=2)
    >>> rows = Expand(scenes, by="question").open()
    >>> len(rows) == sum(len(scenes.open().annotation(i).questions) for i in range(20))
    True
    >>> rows.annotation(1).questions == scenes.open().annotation(0).questions[1:2]
    True
    """

    source: Source
    """The source to expand."""
    by: Literal["question", "caption"] = "question"
    """What each row has exactly one of."""

    def problems(self) -> Iterator[tuple[str, str]]:
        if isinstance(self.source, Mixture | Expand):
            kind = self.source.type_name
            yield "source", f"cannot be of type {kind}; expand the sources of its parts"

    @property
    def full_name(self) -> str:
        return f"{self.type_name}:{self.by}:{self.source.full_name}"

    @property
    def dataset(self) -> str:
        """The name of the source that is expanded."""
        return self.source.dataset

    @property
    def split_name(self) -> str:
        """The split of the source that is expanded."""
        return self.source.split_name

    def open(self) -> Records:
        return self.index(None, log_progress(self.full_name, "read {:,} of {:,} annotations"))

    def index(self, workers: int | None, progress: Progress) -> Records:
        try:
            records = self.source.open()
        except UserError as error:
            raise UserError(str(error).replace("data.source.", "data.source.source.")) from error
        return ExpandedRecords(self, records, progress)


class ExpandedRecords(Records):
    """The rows of an expanded source, with random access.

    Args:
      config: what to expand by.
      records: the opened source.
      progress: called with the number of annotations that are read and the total.
    """

    def __init__(self, config: Expand, records: Records, progress: Progress):
        self._records, self._by = records, config.by
        start = time.monotonic()
        key = f"{config.by} {records.identity}"
        counts = cached("expanded", key, lambda: self._count(progress))
        rows = np.array(counts, np.int64)
        self._ends: Int64[np.ndarray, " records"] = np.cumsum(np.maximum(rows, 0))
        found = SourceCounts()
        for i in np.flatnonzero(rows < 0).tolist():
            found.leave_out("records whose annotation cannot be used", str(i))
        found.log(config.full_name)
        seconds = time.monotonic() - start
        if seconds > _QUIET_SECONDS:
            made = f"{len(self):,} rows of {len(records):,} records"
            logger.warning("%s: %s, counted in %.0f s", config.full_name, made, seconds)
        self.class_names, self.image_count = records.class_names, records.image_count
        self.identity = hashlib.sha256(f"expand {key}".encode()).hexdigest()

    def _count(self, progress: Progress) -> list[int]:
        """The number of rows of each record; -1 if its annotation cannot be used."""
        counts = []
        for i in range(len(self._records)):
            try:
                counts.append(len(self._choices(self._records.annotation(i))))
            except ExampleError:
                counts.append(-1)  # it would be rejected in any case
            progress(i + 1, len(self._records))
        return counts

    def _choices(self, annotation: Annotation) -> list[int]:
        """Indices of the questions or captions that have a row."""
        if self._by == "question":
            return [*range(len(annotation.questions))]
        return [i for i, caption in enumerate(annotation.captions) if caption.strip()]

    def __len__(self) -> int:
        return int(self._ends[-1]) if len(self._ends) else 0

    def _place(self, index: int) -> tuple[int, int]:
        """The record of a row, and the number of the row among those of its record."""
        if not 0 <= index < len(self):
            raise IndexError(f"row {index} of {len(self)}")
        record = int(np.searchsorted(self._ends, index, side="right"))
        return record, index - (int(self._ends[record - 1]) if record else 0)

    def image_numbers(self) -> Int64[np.ndarray, " rows"]:
        records = np.searchsorted(self._ends, np.arange(len(self)), side="right")
        return self._records.image_numbers()[records]

    def annotation(self, index: int) -> Annotation:
        record, number = self._place(index)
        annotation = self._records.annotation(record)
        return replace(annotation, **self._only(annotation, number))

    def _only(self, annotation: Annotation, number: int) -> dict[str, Any]:
        choices = self._choices(annotation)
        if number >= len(choices):
            raise ExampleError("the annotation has changed since the source was opened")
        chosen = choices[number]
        if self._by == "question":
            return {"questions": (annotation.questions[chosen],)}
        phrases = (phrase for phrase in annotation.phrases if phrase.caption == chosen)
        return {
            "captions": (annotation.captions[chosen],),
            "phrases": tuple(replace(phrase, caption=0) for phrase in phrases),
        }

    def image(self, index: int) -> bytes:
        return self._records.image(self._place(index)[0])

    def more_images(self, index: int) -> tuple[bytes, ...]:
        return self._records.more_images(self._place(index)[0])

    def masks(self, index: int) -> bytes | None:
        return self._records.masks(self._place(index)[0])

    def other_columns(self, index: int) -> dict[str, Any]:
        return self._records.other_columns(self._place(index)[0])

    def __getitem__(self, index: int) -> Record:
        record, number = self._place(index)
        whole = self._records[record]
        return replace(whole, **self._only(whole, number))
