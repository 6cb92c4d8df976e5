"""A conversion as an Apache Beam pipeline, for data sets that are too large for one machine."""

from __future__ import annotations

import functools
import re
import threading
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from vljax.config import UserError
from vljax.data.records import Records, Source, log_progress
from vljax.data_tools.convert.job import Job, Report, read_reports
from vljax.data_tools.convert.shard import convert_shard

if TYPE_CHECKING:
    from apache_beam import PTransform

_STEP = re.compile(r" \[while running '.*'\]")


def run(
    source: Source, job: Job, todo: list[int], max_rejected_share: float, arguments: Sequence[str]
) -> Iterator[Report]:
    """Writes shards with a Beam runner and waits until it is done.

    Args:
      source: the source to read; all workers must reach its paths.
      job: the conversion; all workers must reach its folder.
      todo: numbers of the shards to write.
      max_rejected_share: largest share of examples that may be rejected.
      arguments: arguments of Beam: `--runner=DataflowRunner`, `--project=...`.

    Yields:
      The reports of these shards, once all are done.

    Raises:
      UserError: if Beam is not installed, the pipeline fails, or a shard is missing afterwards.
    """
    beam = _beam()
    from apache_beam.options.pipeline_options import PipelineOptions

    if not todo:
        return
    try:
        with beam.Pipeline(options=PipelineOptions(list(arguments))) as pipeline:
            shards = pipeline | "shards" >> beam.Create(todo)
            _ = shards | "convert" >> converting(source, job, max_rejected_share)
    except Exception as error:  # runners wrap the exceptions of workers in their own types
        raise UserError(_reason(error)) from error
    reports = read_reports(job)
    missing = [job.name(shard) for shard in todo if shard not in reports]
    if missing:
        raise UserError(
            f"--out {job.out}: the pipeline ended, but {len(missing):,} of {len(todo):,} shards "
            f"are not there, such as {missing[0]}; name a folder that all workers reach"
        )
    yield from (reports[shard] for shard in todo)


def converting(source: Source, job: Job, max_rejected_share: float) -> PTransform:
    """A Beam transform for your own pipelines: takes shard numbers, writes them, returns reports.

    Runners may give a shard to two workers at the same time. Both write the same bytes under a
    temporary name, and the file appears once it is complete.

    Args:
      source: the source to read; all workers must reach its paths.
      job: a job started by `job.start_or_resume`; all workers must reach its folder.
      max_rejected_share: largest share of examples that may be rejected.
    """
    beam = _beam()
    # Without Reshuffle, Beam fuses this step with the Create before it and runs both on one worker.
    transform: PTransform = beam.Reshuffle() | beam.Map(_converted, source, job, max_rejected_share)
    return transform


def _converted(shard: int, source: Source, job: Job, max_rejected_share: float) -> Report:
    from apache_beam.metrics import Metrics

    examples = Metrics.counter("vljax", "examples")
    with _opening:
        records = _opened(source, job)
    return convert_shard(job, records, shard, max_rejected_share, examples.inc)


# Workers have several threads, and lru_cache alone would let each of them open the source.
_opening = threading.Lock()


@functools.lru_cache(maxsize=1)
def _opened(source: Source, job: Job) -> Records:
    """The source, opened once per worker. Raises UserError if its data differs from the plan."""
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
    """The message of a UserError that a worker raised; otherwise the last line of the error."""
    text = _STEP.sub("", str(error))
    if isinstance(error, UserError):
        return text
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    own = [line for line in lines if "UserError: " in line]
    last = (own or lines or [type(error).__name__])[-1]
    return last.partition("UserError: ")[2] or f"beam: {last}"
