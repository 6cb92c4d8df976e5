"""A data set looked through from end to end, or a sample of it."""

from __future__ import annotations

import collections
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any

import numpy as np

from vljax.data.records import Progress, Records, Source
from vljax.data.tokenizers.base import LoadedTokenizer
from vljax.data.worker_pool import usable_cores, worker_pool
from vljax.data_tools.inspection import summary
from vljax.data_tools.inspection.measure import EXAMPLE, Measured, Measurer
from vljax.data_tools.inspection.summary import duplicates


@dataclass(frozen=True)
class How:
    """How a data set is looked through."""

    sample: int | None
    """Examples to draw; None for all."""
    seed: int
    """Of the draw."""
    workers: int | None
    """Processes; None for as many as there are cores."""
    tokenizer: LoadedTokenizer | None
    """Counts the tokens of captions; None counts none."""
    max_pixels: int
    """Images with more cannot be used."""
    decodes: bool
    """Whether images are decoded, without which damage and likeness stay unknown."""


@dataclass(frozen=True)
class Inspection:
    """What was found."""

    records: Records
    """The opened data set."""
    examples: np.ndarray
    """`EXAMPLE` rows of what was looked at."""
    result: dict[str, Any]
    """Everything summed up, as JSON data."""

    def __post_init__(self) -> None:
        assert self.examples.dtype == EXAMPLE


def inspect(source: Source, records: Records, how: How, progress: Progress) -> Inspection:
    """Looks through a data set.

    Args:
      source: for its name.
      records: the source opened.
      how: to go about it.
      progress: is told the examples done and all there are.

    Raises:
      UserError: if a process is killed.
    """
    measurer = Measurer(records, how.tokenizer, how.max_pixels, how.decodes)
    chosen = drawn(len(records), how.sample, how.seed)
    measured = scan(measurer, chosen, how.workers, progress)
    counted, tokenizer = records.counts, how.tokenizer
    result = {
        "source": source.full_name,
        "type": source.type_name,
        "identity": records.identity,
        "examples": len(records),
        "examined": len(chosen),
        "seed": how.seed if len(chosen) < len(records) else None,
        "decoded": how.decodes,
        "files": counted.files if counted else None,
        "columns": counted.fields if counted else {},
        "left_out": counted.left_out if counted else {},
        "unusable": summary.unusable(measured),
        "captions": summary.captions(
            measured,
            records,
            None if tokenizer is None else tokenizer.config.type_name,
            0 if tokenizer is None else tokenizer.context_length,
        ),
        "images": summary.images(measured),
        "labels": summary.labels(measured, records.class_names),
        "duplicates": duplicates(measured),
    }
    return Inspection(records, measured.examples, result)


# Measures a data set or a sample of it: chunk by chunk, over the cores where that is worth it

_CHUNK = 64  # examples
# Seconds: what there is to know before processes are started, and what these take to start.
_TRIED, _START = 1.0, 4.0

Indices = Sequence[int] | np.ndarray


def drawn(examples: int, sample: int | None, seed: int) -> Indices:
    """The indices to look at, ascending: all, or as many drawn without replacement by a seed."""
    if sample is None or sample >= examples:
        return range(examples)
    rng = np.random.default_rng(seed)
    return np.sort(rng.choice(examples, sample, replace=False, shuffle=False))


def scan(measurer: Measurer, indices: Indices, workers: int | None, progress: Progress) -> Measured:
    """Measures examples; the result does not depend on the processes.

    The first chunks are measured here. If they show the rest to take longer than processes need to
    start, these share it.

    Args:
      measurer: what measures.
      indices: of the examples.
      workers: processes; as many as there are cores where it is None.
      progress: is told the examples done and all there are.

    Raises:
      UserError: if a process is killed.
    """
    chunks = [indices[start : start + _CHUNK] for start in range(0, len(indices), _CHUNK)]
    workers = workers or usable_cores()
    parts, done, begun = list[Measured](), 0, time.monotonic()
    progress(0, len(indices))
    for chunk in chunks:
        passed = time.monotonic() - begun
        left = passed / max(done, 1) * (len(indices) - done)
        if workers > 1 and passed > _TRIED and left > _START:
            break
        parts.append(measurer(_ints(chunk)))
        done += len(chunk)
        progress(done, len(indices))
    else:
        return Measured.joined(parts)
    for part in _shared(measurer, chunks[len(parts) :], workers):
        parts.append(part)
        done += len(part.examples)
        progress(done, len(indices))
    return Measured.joined(parts)


def _ints(chunk: Indices) -> list[int]:
    return [int(index) for index in chunk]


def _shared(measurer: Measurer, chunks: list[Indices], workers: int) -> Iterator[Measured]:
    """The chunks in their order, measured by processes that are at most a few chunks ahead."""
    waiting: collections.deque[Future[Measured]] = collections.deque()
    with worker_pool(workers, "measured examples", _begin, measurer) as pool:
        for chunk in chunks:
            waiting.append(pool.submit(_measure, _ints(chunk)))
            if len(waiting) > 4 * workers:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


_measurer: Measurer


def _begin(measurer: Measurer) -> None:
    global _measurer
    _measurer = measurer


def _measure(indices: list[int]) -> Measured:
    return _measurer(indices)
