"""A whole conversion: begun or gone on with, in processes of this machine or by Beam."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, wait
from dataclasses import dataclass
from typing import Any

from vljax.config import UserError
from vljax.data.records import Progress, Records, Source
from vljax.data.worker_pool import SPAWN, usable_cores, worker_pool
from vljax.data_tools.convert.images import Images
from vljax.data_tools.convert.job import (
    REPORTS,
    Job,
    Plan,
    Report,
    begin,
    check_free,
    finish,
    reports,
)
from vljax.data_tools.convert.shard import (
    convert_shard,
    over_limit,
    too_many,
)
from vljax.data_tools.convert.targets import Target
from vljax.files import is_remote, join, make_folder

_SECONDS = 0.25  # between two looks at how far the processes are


@dataclass(frozen=True)
class Options:
    """How a source is converted."""

    out: str
    """Folder, local or remote."""
    to: Target
    """What is written."""
    examples_per_shard: int = 10_000
    """Of the source; those that cannot be used leave a shard shorter."""
    images: Images = Images()  # noqa: RUF009  # frozen
    """How images are written."""
    drop: tuple[str, ...] = ()
    """Columns that are left out."""
    max_rejected_share: float = 0.1
    """The share of examples that may be unusable."""
    workers: int | None = None
    """Processes; None for as many as there are cores."""
    beam: tuple[str, ...] | None = None
    """Arguments of a Beam runner, which then does the work; None for this machine."""


def convert(
    source: Source, options: Options, opening: Progress, progress: Progress
) -> dict[str, Any]:
    """Converts a source; what is there already is left as it is.

    The bytes of the shards are the same whatever the number of processes and interruptions.

    Args:
      source: what to read.
      options: what to write.
      opening: is told how far an index is that has to be built first.
      progress: is told the examples done and all there are.

    Returns:
      What `job.finish` says, and under `new_shards` how many were written now.

    Raises:
      UserError: if the source cannot be opened or has no examples, the folder holds something else,
        a column cannot be written, or too many examples cannot be used.
      OSError: if there is no room.
    """
    check_free(options.out)
    records = source.open_with_all_columns(options.workers, opening)
    if not len(records):
        raise UserError(f"{source.full_name}: has no examples")
    job = Job(_plan(source, records, options), options.out.rstrip("/"))
    limit = options.max_rejected_share
    with _alone(job):
        begin(job, records.class_names)
        before = reports(job)
        tally = _Tally(job, progress, before)
        todo = [shard for shard in range(job.shards) if shard not in before]
        with contextlib.closing(
            _written(source, records, job, todo, options, tally.under_way)
        ) as written:
            try:
                for report in written:
                    tally.add(report, limit)
            finally:
                summary = finish(job, tally.done)
        tally.check(limit)
    return {**summary, "new_shards": len(tally.done) - len(before)}


def _plan(source: Source, records: Records, options: Options) -> Plan:
    return Plan(
        source=source.full_name,
        identity=records.identity,
        examples=len(records),
        to=options.to,
        examples_per_shard=options.examples_per_shard,
        images=options.images,
        drop=tuple(sorted(set(options.drop))),
    )


@contextlib.contextmanager
def _alone(job: Job) -> Iterator[None]:
    """Keeps other conversions out of a local folder, also those of others who share it."""
    if is_remote(job.out):
        yield
        return
    from filelock import FileLock, Timeout

    make_folder(join(job.out, REPORTS))
    lock = FileLock(join(job.out, REPORTS, "lock"), mode=0o666)
    try:
        lock.acquire(timeout=0)
    except Timeout as error:
        raise UserError(f"--out {job.out}: another conversion is writing there") from error
    try:
        yield
    finally:
        lock.release()


class _Tally:
    """The reports so far."""

    def __init__(self, job: Job, progress: Progress, done: dict[int, Report]):
        self.done = dict(done)
        self._job, self._progress = job, progress
        self._seen = sum(len(job.indices(shard)) for shard in done)
        self._before = self._seen
        self._bad = [row for shard in sorted(done) for row in done[shard].rejected]

    def under_way(self, new: int) -> None:
        """Tells of examples that were read beside those of the shards that were there before."""
        self._progress(self._before + new, self._job.plan.examples)

    def add(self, report: Report, limit: float) -> None:
        """Counts a shard. Raises UserError if more is bad than allowed and chance explains."""
        self.done[report.shard] = report
        self._seen += len(self._job.indices(report.shard))
        self._bad += report.rejected
        if too_many(len(self._bad), self._seen, limit):
            raise UserError(over_limit(self._bad, self._seen, limit))

    def check(self, limit: float) -> None:
        """The same once all examples are known, of which none is left to chance."""
        if len(self._bad) > limit * self._seen:
            raise UserError(over_limit(self._bad, self._seen, limit))


def _written(
    source: Source,
    records: Records,
    job: Job,
    todo: list[int],
    options: Options,
    under_way: Callable[[int], None],
) -> Generator[Report]:
    """Writes shards; yields the report of each as it is done."""
    under_way(0)
    limit = options.max_rejected_share
    if options.beam is not None:
        from vljax.data_tools.convert.beam import run

        yield from run(source, job, todo, limit, options.beam)
        return
    workers = min(options.workers or usable_cores(), len(todo))
    if workers > 1:
        yield from _in_processes(records, job, todo, limit, workers, under_way)
        return
    seen = 0

    def each() -> None:
        nonlocal seen
        seen += 1
        under_way(seen)

    for shard in todo:
        yield convert_shard(job, records, shard, limit, each)


def _in_processes(
    records: Records,
    job: Job,
    todo: list[int],
    limit: float,
    workers: int,
    under_way: Callable[[int], None],
) -> Generator[Report]:
    seen, stop = SPAWN.Value("q", 0), SPAWN.RawValue("b", 0)
    given = (records, job, limit, seen, stop)
    with worker_pool(workers, "converted examples", _share, *given) as pool:
        try:
            waiting: set[Future[Report]] = {pool.submit(_convert_one, shard) for shard in todo}
            while waiting:
                done, waiting = wait(waiting, _SECONDS, FIRST_COMPLETED)
                under_way(seen.value)
                for future in done:
                    yield future.result()
        finally:
            stop.value = 1


_Shared = tuple[Records, Job, float, Any, Any]
# In a worker process: what all shards have in common.
_shared: _Shared | None = None


def _share(*given: Any) -> None:
    global _shared
    _shared = given


class _StoppedError(Exception):
    """The conversion has ended; what this worker does is not wanted any more."""


def _convert_one(shard: int) -> Report:
    assert _shared is not None
    records, job, limit, seen, stop = _shared

    def each() -> None:
        with seen.get_lock():
            seen.value += 1
        if stop.value:
            raise _StoppedError

    return convert_shard(job, records, shard, limit, each)
