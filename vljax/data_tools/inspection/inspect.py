"""Inspection of a data set: measures all examples, or a sample, and summarizes the result."""

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
from vljax.data_tools.inspection.measure import EXAMPLE, Measurements, Measurer
from vljax.data_tools.inspection.summary import duplicates


@dataclass(frozen=True)
class InspectionOptions:
    """How a data set is inspected."""

    sample: int | None
    """Number of examples to draw; None means all."""
    seed: int
    """Seed of the draw."""
    workers: int | None
    """Number of processes; None means one per core."""
    tokenizer: LoadedTokenizer | None
    """Tokenizer that counts the tokens of captions; None means no count."""
    max_pixels: int
    """Images with more pixels are rejected."""
    decodes: bool
    """Whether images are decoded. Otherwise damaged files and near duplicates are not found."""


@dataclass(frozen=True)
class Inspection:
    """The result of an inspection."""

    records: Records
    """The opened data set."""
    examples: np.ndarray
    """An `EXAMPLE` row for each example that was inspected."""
    result: dict[str, Any]
    """The summary, as JSON data."""

    def __post_init__(self) -> None:
        assert self.examples.dtype == EXAMPLE


def inspect(
    source: Source, records: Records, options: InspectionOptions, progress: Progress
) -> Inspection:
    """Measures the examples of a data set and summarizes them.

    Args:
      source: the source, for its name.
      records: the opened source.
      options: how to inspect it.
      progress: called with the number of examples that are done and the total.

    Raises:
      UserError: if a process is killed.
    """
    measurer = Measurer(records, options.tokenizer, options.max_pixels, options.decodes)
    chosen = sample_indices(len(records), options.sample, options.seed)
    measured = measure_all(measurer, chosen, options.workers, progress)
    counted, tokenizer = records.counts, options.tokenizer
    result = {
        "source": source.full_name,
        "type": source.type_name,
        "identity": records.identity,
        "examples": len(records),
        "examined": len(chosen),
        "seed": options.seed if len(chosen) < len(records) else None,
        "decoded": options.decodes,
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


_CHUNK = 64  # examples
# Seconds of measuring before deciding whether to start processes, and seconds to start them.
_TRIAL, _START = 1.0, 4.0

Indices = Sequence[int] | np.ndarray


def sample_indices(examples: int, sample: int | None, seed: int) -> Indices:
    """Ascending indices: all, or `sample` of them drawn without replacement."""
    if sample is None or sample >= examples:
        return range(examples)
    rng = np.random.default_rng(seed)
    return np.sort(rng.choice(examples, sample, replace=False, shuffle=False))


def measure_all(
    measurer: Measurer, indices: Indices, workers: int | None, progress: Progress
) -> Measurements:
    """Measures examples, by several processes if that is faster; the result is the same.

    The first chunks are measured in this process. If the rest takes longer than starting worker
    processes, the workers measure it.

    Args:
      measurer: measures chunks.
      indices: indices of the examples.
      workers: number of processes; None means one per core.
      progress: called with the number of examples that are done and the total.

    Raises:
      UserError: if a process is killed.
    """
    chunks = [indices[start : start + _CHUNK] for start in range(0, len(indices), _CHUNK)]
    workers = workers or usable_cores()
    parts, done, begun = list[Measurements](), 0, time.monotonic()
    progress(0, len(indices))
    for chunk in chunks:
        passed = time.monotonic() - begun
        left = passed / max(done, 1) * (len(indices) - done)
        if workers > 1 and passed > _TRIAL and left > _START:
            break
        parts.append(measurer(_ints(chunk)))
        done += len(chunk)
        progress(done, len(indices))
    else:
        return Measurements.joined(parts)
    for part in _shared(measurer, chunks[len(parts) :], workers):
        parts.append(part)
        done += len(part.examples)
        progress(done, len(indices))
    return Measurements.joined(parts)


def _ints(chunk: Indices) -> list[int]:
    return [int(index) for index in chunk]


def _shared(measurer: Measurer, chunks: list[Indices], workers: int) -> Iterator[Measurements]:
    """Measures chunks in processes; yields results in order, with few chunks in memory."""
    waiting: collections.deque[Future[Measurements]] = collections.deque()
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


def _measure(indices: list[int]) -> Measurements:
    return _measurer(indices)
