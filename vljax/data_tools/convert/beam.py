"""The shards of a conversion as an Apache Beam pipeline, for sets beyond one machine."""

from __future__ import annotations

import functools
import re
import threading
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from vljax.config import UserError
from vljax.data.records import Records, Source, log_progress
from vljax.data_tools.convert.job import Job, Report, reports
from vljax.data_tools.convert.shard import convert_shard

if TYPE_CHECKING:
    from apache_beam import PTransform

_STEP = re.compile(r" \[while running '.*'\]")


def run(
    source: Source, job: Job, todo: list[int], max_rejected_share: float, arguments: Sequence[str]
) -> Iterator[Report]:
    """Writes shards by the runner that arguments name, and waits for it.

    Args:
      source: what to read, by paths that the workers reach.
      job: whose folder the workers reach.
      todo: numbers of the shards to write.
      max_rejected_share: the share of examples that may be unusable.
      arguments: of Beam: `--runner=DataflowRunner`, `--project=...`.

    Yields:
      The reports of these shards, once all are done.

    Raises:
      UserError: if Beam is not installed, the pipeline fails, or a shard of it is not there.
    """
    beam = _beam()
    from apache_beam.options.pipeline_options import PipelineOptions

    if not todo:
        return
    try:
        with beam.Pipeline(options=PipelineOptions(list(arguments))) as pipeline:
            shards = pipeline | "shards" >> beam.Create(todo)
            _ = shards | "convert" >> converting(source, job, max_rejected_share)
    except Exception as error:  # runners raise errors of their own, and wrap those of workers
        raise UserError(_reason(error)) from error
    every = reports(job)
    missing = [job.name(shard) for shard in todo if shard not in every]
    if missing:
        raise UserError(
            f"--out {job.out}: the pipeline ended, but {len(missing):,} of {len(todo):,} shards "
            f"are not there, such as {missing[0]}; name a folder that all workers reach"
        )
    yield from (every[shard] for shard in todo)


def converting(source: Source, job: Job, max_rejected_share: float) -> PTransform:
    """From numbers of shards to their reports, for a pipeline of your own.

    A shard may be written by two workers at a time, as runners do for safety: both write the same
    bytes under a name of their own, and the file appears in full.

    Args:
      source: what to read, by paths that the workers reach.
      job: begun by `job.begin`; its folder is one that the workers reach.
      max_rejected_share: the share of examples that may be unusable.
    """
    beam = _beam()
    # Reshuffled, since what follows a Create at once stays on one worker.
    transform: PTransform = beam.Reshuffle() | beam.Map(_converted, source, job, max_rejected_share)
    return transform


def _converted(shard: int, source: Source, job: Job, max_rejected_share: float) -> Report:
    from apache_beam.metrics import Metrics

    examples = Metrics.counter("vljax", "examples")
    with _opening:
        records = _opened(source, job)
    return convert_shard(job, records, shard, max_rejected_share, examples.inc)


_opening = threading.Lock()  # workers have threads, and the cache would let each open it


@functools.lru_cache(maxsize=1)  # a worker opens the source once
def _opened(source: Source, job: Job) -> Records:
    """The source on a worker. Raises UserError if it is not what the job was planned for."""
    records = source.open_with_all_columns(1, log_progress(source.full_name))
    if records.identity != job.plan.identity:
        raise UserError(f"{source.full_name}: is another one on a worker than where this started")
    return records


def _beam() -> Any:
    try:
        import apache_beam
    except ImportError as error:
        raise UserError("--beam needs a package: pip install 'vljax[beam]'") from error
    return apache_beam


def _reason(error: BaseException) -> str:
    """What a worker raised, if it was that; else the last line that says something."""
    text = _STEP.sub("", str(error))
    if isinstance(error, UserError):
        return text
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    own = [line for line in lines if "UserError: " in line]
    last = (own or lines or [type(error).__name__])[-1]
    return last.partition("UserError: ")[2] or f"beam: {last}"
