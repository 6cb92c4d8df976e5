"""Runs or resumes a conversion, in processes on this machine or by Beam."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Generator
from concurrent.futures import FIRST_COMPLETED, Future, wait
from dataclasses import dataclass
from typing import Any

from vljax.config import UserError
from vljax.data.records import Progress, Records, Source, exceeds_limit
from vljax.data.worker_pool import SPAWN, usable_cores, worker_pool
from vljax.data_tools.convert.images import ImageOptions
from vljax.data_tools.convert.job import (
    REPORTS,
    Job,
    Plan,
    Report,
    Target,
    check_folder,
    finish,
    read_reports,
    start_or_resume,
)
from vljax.data_tools.convert.shard import convert_shard, limit_message
from vljax.files import exclusive, join

_POLL_SECONDS = 0.25  # between two updates of the progress


@dataclass(frozen=True)
class ConvertOptions:
    """How a source is converted."""

    out: str
    """Folder for the shards, local or remote."""
    to: Target
    """Format of the shards."""
    examples_per_shard: int = 10_000
    """Examples of the source for each shard; rejected examples make a shard shorter."""
    images: ImageOptions = ImageOptions()  # noqa: RUF009  # frozen
    """How images are written."""
    drop: tuple[str, ...] = ()
    """Columns that are left out."""
    max_rejected_share: float = 0.1
    """Largest share of examples that may be rejected."""
    workers: int | None = None
    """Number of processes; None means one per core."""
    beam: tuple[str, ...] | None = None
    """Arguments of the Beam runner that does the work; None means this machine does it."""


def convert(
    source: Source, options: ConvertOptions, opening: Progress, progress: Progress
) -> dict[str, Any]:
    """Converts a source; shards that are complete already are kept.

    The bytes of the shards do not depend on the number of processes or on interruptions.

    >>> from vljax.datasets import Builtin
    >>> options = ConvertOptions("pictures", "webdataset", examples_per_shard=300, workers=1)
    >>> ignore = lambda done, total: None
    >>> summary = convert(Builtin("test"), options, ignore, ignore)
    >>> summary["examples"], summary["shards"]
    (424, 2)

    Args:
      source: the source to read.
      options: what to write.
      opening: called with the progress of building an index, if the source needs one.
      progress: called with the number of examples that are done and the total.

    Returns:
      The summary (`job.finish`), and `new_shards`, the number of shards written by this call.

    Raises:
      UserError: if the source cannot be opened or has no examples, the folder has other files, a
        column cannot be written, or too many examples are rejected.
      OSError: if the disk is full.
    """
    check_folder(options.out)
    records = source.open_with_all_columns(options.workers, opening)
    if not len(records):
        raise UserError(f"{source.full_name}: has no examples")
    job = Job(_plan(source, records, options), options.out.rstrip("/"))
    limit = options.max_rejected_share
    with exclusive(
        join(job.out, REPORTS, "lock"), f"--out {job.out}: another conversion is writing there"
    ):
        start_or_resume(job, records.class_names)
        before = read_reports(job)
        totals = _Totals(job, progress, before)
        todo = [shard for shard in range(job.shards) if shard not in before]
        with contextlib.closing(
            _convert_shards(source, records, job, todo, options, totals.report_read)
        ) as written:
            try:
                for report in written:
                    totals.add(report, limit)
            finally:
                summary = finish(job, totals.done)
        totals.check(limit)
    return {**summary, "new_shards": len(totals.done) - len(before)}


def _plan(source: Source, records: Records, options: ConvertOptions) -> Plan:
    return Plan(
        source=source.full_name,
        identity=records.identity,
        examples=len(records),
        to=options.to,
        examples_per_shard=options.examples_per_shard,
        images=options.images,
        drop=tuple(sorted(set(options.drop))),
    )


class _Totals:
    """The reports so far, and the number of rejected examples in them."""

    def __init__(self, job: Job, progress: Progress, done: dict[int, Report]):
        self.done = dict(done)
        self._job, self._progress = job, progress
        self._seen = sum(len(job.indices(shard)) for shard in done)
        self._before = self._seen
        self._bad = [row for shard in sorted(done) for row in done[shard].rejected]

    def report_read(self, new: int) -> None:
        """Reports progress: `new` examples were read, besides those of earlier runs."""
        self._progress(self._before + new, self._job.plan.examples)

    def add(self, report: Report, limit: float) -> None:
        """Adds a shard. Raises UserError if the rejected share is significantly too high."""
        self.done[report.shard] = report
        self._seen += len(self._job.indices(report.shard))
        self._bad += report.rejected
        if exceeds_limit(len(self._bad), self._seen, limit):
            raise UserError(limit_message(self._bad, self._seen, limit))

    def check(self, limit: float) -> None:
        """Raises UserError if the rejected share of all examples is too high."""
        if len(self._bad) > limit * self._seen:
            raise UserError(limit_message(self._bad, self._seen, limit))


def _convert_shards(
    source: Source,
    records: Records,
    job: Job,
    todo: list[int],
    options: ConvertOptions,
    report_read: Callable[[int], None],
) -> Generator[Report]:
    """Writes shards; yields the report of each as it is finished."""
    report_read(0)
    limit = options.max_rejected_share
    if options.beam is not None:
        from vljax.data_tools.convert.beam import run

        yield from run(source, job, todo, limit, options.beam)
        return
    workers = min(options.workers or usable_cores(), len(todo))
    if workers > 1:
        yield from _in_processes(records, job, todo, limit, workers, report_read)
        return
    seen = 0

    def each() -> None:
        nonlocal seen
        seen += 1
        report_read(seen)

    for shard in todo:
        yield convert_shard(job, records, shard, limit, each)


def _in_processes(
    records: Records,
    job: Job,
    todo: list[int],
    limit: float,
    workers: int,
    report_read: Callable[[int], None],
) -> Generator[Report]:
    seen, stop = SPAWN.Value("q", 0), SPAWN.RawValue("b", 0)
    shared = (records, job, limit, seen, stop)
    with worker_pool(workers, "converted examples", _share, *shared) as pool:
        try:
            waiting: set[Future[Report]] = {pool.submit(_convert_one, shard) for shard in todo}
            while waiting:
                done, waiting = wait(waiting, _POLL_SECONDS, FIRST_COMPLETED)
                report_read(seen.value)
                for future in done:
                    yield future.result()
        finally:
            stop.value = 1


_Shared = tuple[Records, Job, float, Any, Any]
# In a worker process: the arguments that all shards share, sent once.
_shared: _Shared | None = None


def _share(*arguments: Any) -> None:
    global _shared
    _shared = arguments


class _StoppedError(Exception):
    """Raised in a worker when the conversion has been stopped."""


def _convert_one(shard: int) -> Report:
    assert _shared is not None
    records, job, limit, seen, stop = _shared

    def each() -> None:
        with seen.get_lock():
            seen.value += 1
        if stop.value:
            raise _StoppedError

    return convert_shard(job, records, shard, limit, each)
