"""One shard, from the examples of the source to its file."""

from __future__ import annotations

import math
import os
from collections import Counter
from collections.abc import Callable, Iterator
from itertools import chain

from vljax.config import UserError
from vljax.data.records import ExampleError, Records
from vljax.data_tools.convert.job import REJECTED, Job, Rejected, Report, write_report
from vljax.data_tools.convert.targets import Packed, packed, stored, writing
from vljax.files import atomic_file

_LOOKED_AT = 1000  # examples of a shard before it alone may end the conversion
_IDS = ("__key__", "key", "path", "image", "filename", "id", "url")

Each = Callable[[], None]
"""Called after each example of the source; may raise to stop."""


def convert_shard(
    job: Job, records: Records, shard: int, max_rejected_share: float, each: Each
) -> Report:
    """Writes a shard that is not there yet, and its report.

    Args:
      job: what is converted.
      records: the source, opened in full.
      shard: its number.
      max_rejected_share: the share of examples that may be unusable.
      each: called after each example.

    Returns:
      The report.

    Raises:
      UserError: if too many examples cannot be used, or the target cannot hold a column.
      OSError: if the shard cannot be written.
    """
    rejected: list[Rejected] = []
    examples = _usable(job, records, shard, max_rejected_share, each, rejected)
    first = next(examples, None)
    if first is None:
        report = Report(shard, 0, 0, {}, tuple(rejected))
        write_report(job, report)
        return report
    count, fields = 0, Counter[str]()
    with atomic_file(job.path(shard)) as place:
        with writing(job.plan.to, place) as writer:
            for example, has in chain([first], examples):
                writer.add(example)
                fields.update(has)
                count += 1
        size = os.path.getsize(place)
        report = Report(shard, count, size, dict(sorted(fields.items())), tuple(rejected))
        write_report(job, report)
    return report


def _usable(
    job: Job,
    records: Records,
    shard: int,
    max_rejected_share: float,
    each: Each,
    rejected: list[Rejected],
) -> Iterator[tuple[Packed, list[str]]]:
    """The examples that can be used, and what they have; the others go to `rejected`."""
    plan = job.plan
    for seen, index in enumerate(job.indices(shard), 1):
        try:
            example = stored(records, index, plan.images, frozenset(plan.drop))
            yield packed(plan.to, job.key(index), example), example.fields
        except ExampleError as error:
            name = _id(records, index)
            rejected.append(Rejected(index, name, error.kind, str(error)))
        except UserError as error:
            raise UserError(f"{plan.source}, example {index}: {error}") from error
        if seen >= _LOOKED_AT and too_many(len(rejected), seen, max_rejected_share):
            raise UserError(over_limit(rejected, seen, max_rejected_share))
        each()


def too_many(bad: int, seen: int, limit: float) -> bool:
    """Whether more examples cannot be used than is allowed, beyond what chance explains.

    Args:
      bad: how many cannot be used.
      seen: of how many.
      limit: the share that is allowed.
    """
    # Three standard deviations, so that a few bad ones among the first end nothing.
    return bad > limit * seen + 3 * math.sqrt(limit * (1 - limit) * seen)


def over_limit(rejected: list[Rejected], seen: int, limit: float) -> str:
    """A summary of what cannot be used, and what to do."""
    first = rejected[0]
    name = f" ({first.id})" if first.id else ""
    return (
        f"--max-rejected-share: {len(rejected):,} of {seen:,} examples cannot be used, more than "
        f"{limit:.3g} of them; such as example {first.index}{name}: {first.reason}; mend the data "
        f"or raise the limit ({REJECTED} in the folder lists those of the shards that are done)"
    )


def _id(records: Records, index: int) -> str:
    """What the source calls an example, if that can be read."""
    try:
        columns = records.other_columns(index)
    except ExampleError:
        return ""
    return next((str(columns[name]) for name in _IDS if isinstance(columns.get(name), str)), "")
