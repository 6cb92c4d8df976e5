"""The plan of a conversion, and the files in its folder.

00000.tar, ...       or 00000.array_record; each appears once it is complete
classes.txt          class names, if the source has any (`files.names_file`)
convert.json         the plan, and counts of what is written
rejected.jsonl       the rejected examples, in order
.convert/00000.json  the report of a shard, written before the shard appears
.convert/lock        held by the conversion that writes to a local folder
"""

from __future__ import annotations

import dataclasses
import json
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Literal, get_args

from vljax.config import UserError, encode
from vljax.data.sources.array_record import CLASSES
from vljax.data_tools.convert.images import ImageOptions
from vljax.files import (
    join,
    list_folder,
    make_folder,
    names_file,
    read_file,
    remove_partial_files,
    write_file,
)

Target = Literal["webdataset", "array_record"]
TARGETS: tuple[Target, ...] = get_args(Target)
ENDINGS: dict[Target, str] = {"webdataset": ".tar", "array_record": ".array_record"}

REJECTED = "rejected.jsonl"
REPORTS = ".convert"
_ABOUT = "convert.json"
# Increase it if the same plan writes other bytes: a started conversion cannot continue then.
_VERSION = 3


@dataclass(frozen=True)
class Plan:
    """Everything that the bytes of the shards depend on."""

    source: str
    """Name of the source."""
    identity: str
    """`Records.identity` of the source."""
    examples: int
    """Number of examples of the source."""
    to: Target
    """Format of the shards."""
    examples_per_shard: int
    """n: shard s has those of the source's examples s * n to (s + 1) * n that can be used."""
    images: ImageOptions
    """How images are written."""
    drop: tuple[str, ...]
    """Columns that are left out."""
    version: int = _VERSION
    """Version of the conversion."""


@dataclass(frozen=True)
class Rejected:
    """A rejected example."""

    index: int
    """Index in the source."""
    id: str
    """Key, path or address of the example in the source; "" if it has none."""
    kind: str
    """`ExampleError.kind`."""
    reason: str
    """Message for people."""


@dataclass(frozen=True)
class Report:
    """What was written to a shard and which examples were rejected."""

    shard: int
    """Number of the shard."""
    examples: int
    """Number of examples written. If 0, there is no file."""
    bytes: int
    """Size of the file."""
    fields: dict[str, int]
    """Number of examples with captions, tags, a class, ..."""
    rejected: tuple[Rejected, ...]
    """The rejected examples."""


@dataclass(frozen=True)
class Job:
    """A conversion: its plan and its folder."""

    plan: Plan
    """What is converted."""
    out: str
    """Folder, local or remote."""

    @property
    def shards(self) -> int:
        """The number of shards."""
        return -(-self.plan.examples // self.plan.examples_per_shard)

    def name(self, shard: int) -> str:
        """The file name of a shard."""
        digits = max(5, len(str(self.shards - 1)))
        return f"{shard:0{digits}d}{ENDINGS[self.plan.to]}"

    def path(self, shard: int) -> str:
        """The path of a shard."""
        return join(self.out, self.name(shard))

    def report_path(self, shard: int) -> str:
        """The path of the report of a shard."""
        return join(self.out, REPORTS, f"{shard:05d}.json")

    def indices(self, shard: int) -> range:
        """The indices of the source's examples that belong to a shard."""
        size = self.plan.examples_per_shard
        return range(shard * size, min((shard + 1) * size, self.plan.examples))

    def key(self, index: int) -> str:
        """The key of an example in tar shards: its index in the source, with leading zeros."""
        return f"{index:0{max(9, len(str(self.plan.examples - 1)))}d}"


def check_folder(out: str) -> None:
    """Raises UserError if a folder has files that do not belong to a conversion."""
    there = list_folder(out)
    if _ABOUT not in there and (other := sorted(there.keys() - {REPORTS})):
        raise UserError(
            f"--out {out}: is there already and holds {other[0]!r}; choose a folder of its own"
        )


def start_or_resume(job: Job, class_names: Sequence[str]) -> None:
    """Creates the folder of a conversion, or checks that it can be resumed.

    Args:
      job: the conversion. Nothing else may write to its folder: unfinished files are removed.
      class_names: class names of the source.

    Raises:
      UserError: if the folder has another conversion.
      OSError: if it cannot be written to.
    """
    check_folder(job.out)
    if _ABOUT in list_folder(job.out):
        _check_same(job)
    make_folder(join(job.out, REPORTS))
    for folder in (job.out, join(job.out, REPORTS)):
        remove_partial_files(folder)
    if class_names:
        write_file(join(job.out, CLASSES), names_file(class_names))
    if _ABOUT not in list_folder(job.out):
        _write_json(join(job.out, _ABOUT), {"plan": encode(job.plan), "complete": False})


def _check_same(job: Job) -> None:
    try:
        saved = json.loads(read_file(join(job.out, _ABOUT)))["plan"]
    except (OSError, ValueError, KeyError) as error:
        raise UserError(f"--out {job.out}: {_ABOUT} is damaged ({error}); remove it") from error
    now = encode(job.plan)
    for name, value in now.items():
        if saved.get(name) != value:
            raise UserError(
                f"--out {job.out}: holds another conversion ({name} was {saved.get(name)!r}, now "
                f"{value!r}); choose another folder"
            )


def read_reports(job: Job) -> dict[int, Report]:
    """The reports of the complete shards, by shard."""
    there, reported = list_folder(job.out), list_folder(join(job.out, REPORTS))

    def read(shard: int) -> Report | None:
        try:
            saved = json.loads(read_file(job.report_path(shard)))
            rejected = tuple(Rejected(**row) for row in saved.pop("rejected"))
            report = Report(**saved, rejected=rejected)
        except (OSError, ValueError, KeyError, TypeError):
            return None
        complete = not report.examples or there.get(job.name(shard)) == report.bytes
        return report if complete else None

    candidates = [s for s in range(job.shards) if job.report_path(s).rpartition("/")[2] in reported]
    with ThreadPoolExecutor(16) as pool:  # remote reports take a round trip each
        return {report.shard: report for report in pool.map(read, candidates) if report}


def write_report(job: Job, report: Report) -> None:
    """Writes a report; call it before the file of the shard appears."""
    _write_json(job.report_path(report.shard), dataclasses.asdict(report))


def finish(job: Job, reports: dict[int, Report]) -> dict[str, Any]:
    """Writes the list of rejected examples and the summary of a conversion.

    Args:
      job: the conversion, complete or not.
      reports: the reports so far, by shard.

    Returns:
      `complete`, `examples`, `fields` (number of examples with captions, ...), `classes` (whether
      there are class names), `rejected` (number by kind), `shards` and `bytes`.
    """
    rows = [row for _, report in sorted(reports.items()) for row in report.rejected]
    kinds = Counter(row.kind for row in rows)
    fields: Counter[str] = Counter()
    for report in reports.values():
        fields.update(report.fields)
    if rows:
        lines = (
            json.dumps({"source": job.plan.source, **dataclasses.asdict(row)}, ensure_ascii=False)
            for row in rows
        )
        write_file(join(job.out, REJECTED), "".join(f"{line}\n" for line in lines).encode())
    summary = {
        "complete": len(reports) == job.shards,
        "examples": sum(report.examples for report in reports.values()),
        "fields": dict(sorted(fields.items())),
        "classes": CLASSES in list_folder(job.out),
        "rejected": dict(sorted(kinds.items())),
        "shards": sum(report.examples > 0 for report in reports.values()),
        "bytes": sum(report.bytes for report in reports.values()),
    }
    _write_json(join(job.out, _ABOUT), {"plan": encode(job.plan), **summary})
    return summary


def _write_json(path: str, content: Any) -> None:
    write_file(path, (json.dumps(content, indent=2) + "\n").encode())
