"""What is converted into which folder, and how far it is.

00000.tar, ...       or 00000.array_record; each appears once it is complete
classes.txt          the names of classes, where there are any
convert.json         what is converted, and the counts once all shards are there
rejected.jsonl       the examples that cannot be used, in order
.convert/00000.json  the report of a shard, which is there before the shard is
.convert/lock        held by the one conversion that writes to a local folder
"""

from __future__ import annotations

import dataclasses
import json
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from vljax.config import UserError, encode
from vljax.data.sources.array_record import CLASSES
from vljax.data_tools.convert.images import Images
from vljax.data_tools.convert.targets import (
    ENDINGS,
    Target,
)
from vljax.files import join, list_folder, make_folder, read_file, remove_partial_files, write_file

REJECTED = "rejected.jsonl"
REPORTS = ".convert"
_ABOUT = "convert.json"
# Goes up when the same plan comes to write other bytes.
_VERSION = 2


@dataclass(frozen=True)
class Plan:
    """All that the bytes of the shards depend on."""

    source: str
    """Its name."""
    identity: str
    """Hash of the data."""
    examples: int
    """Of the source."""
    to: Target
    """The target."""
    examples_per_shard: int
    """Shard s has those of the source's examples s * n to (s + 1) * n that can be used."""
    images: Images
    """How they are written."""
    drop: tuple[str, ...]
    """Columns that are left out."""
    version: int = _VERSION
    """Of this program."""


@dataclass(frozen=True)
class Rejected:
    """An example that cannot be used."""

    index: int
    """In the source."""
    id: str
    """Key, path or address by which the source knows it; "" if it has none."""
    kind: str
    """Class of the reason, see `ExampleError`."""
    reason: str
    """For people."""


@dataclass(frozen=True)
class Report:
    """What became of the examples of a shard."""

    shard: int
    """Its number."""
    examples: int
    """Written; there is no file where it is 0."""
    bytes: int
    """Of the file."""
    fields: dict[str, int]
    """How many of the examples have captions, tags, a class, ..."""
    rejected: tuple[Rejected, ...]
    """The others."""


@dataclass(frozen=True)
class Job:
    """A plan and the folder, local or remote, that it is carried out in."""

    plan: Plan
    out: str

    @property
    def shards(self) -> int:
        """How many there are."""
        return -(-self.plan.examples // self.plan.examples_per_shard)

    def name(self, shard: int) -> str:
        """The name of a shard's file."""
        digits = max(5, len(str(self.shards - 1)))
        return f"{shard:0{digits}d}{ENDINGS[self.plan.to]}"

    def path(self, shard: int) -> str:
        """Where a shard is written to."""
        return join(self.out, self.name(shard))

    def report_path(self, shard: int) -> str:
        """Where the report of a shard is written to."""
        return join(self.out, REPORTS, f"{shard:05d}.json")

    def indices(self, shard: int) -> range:
        """The examples of the source that a shard is made from."""
        size = self.plan.examples_per_shard
        return range(shard * size, min((shard + 1) * size, self.plan.examples))

    def key(self, index: int) -> str:
        """The key of an example in tar shards: its number in the source."""
        return f"{index:0{max(9, len(str(self.plan.examples - 1)))}d}"


def check_free(out: str) -> None:
    """Raises UserError if a folder holds something else than a conversion."""
    there = list_folder(out)
    if _ABOUT not in there and (other := sorted(there.keys() - {REPORTS})):
        raise UserError(
            f"--out {out}: is there already and holds {other[0]!r}; choose a folder of its own"
        )


def begin(job: Job, class_names: Sequence[str]) -> None:
    """Makes the folder, or goes on in it.

    Args:
      job: a conversion that alone writes to its folder: unfinished files in it are removed.
      class_names: of the source.

    Raises:
      UserError: if it holds another conversion.
      OSError: if it cannot be written to.
    """
    check_free(job.out)
    if _ABOUT in list_folder(job.out):
        _check_same(job)
    make_folder(join(job.out, REPORTS))
    for folder in (job.out, join(job.out, REPORTS)):
        remove_partial_files(folder)
    if class_names:
        write_file(join(job.out, CLASSES), "".join(f"{name}\n" for name in class_names).encode())
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


def reports(job: Job) -> dict[int, Report]:
    """The reports of the shards that are complete."""
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
    with ThreadPoolExecutor(16) as pool:  # each waits for the network where they are remote
        return {report.shard: report for report in pool.map(read, candidates) if report}


def write_report(job: Job, report: Report) -> None:
    """Keeps a report, before the file of its shard appears."""
    _write_json(job.report_path(report.shard), dataclasses.asdict(report))


def finish(job: Job, every: dict[int, Report]) -> dict[str, Any]:
    """Lists the examples that cannot be used, and sums up what is there.

    Args:
      job: may not be complete.
      every: the reports so far.

    Returns:
      `examples`, `fields` (how many have captions, ...), whether there are names of `classes`,
      `rejected` by kind, `shards`, `bytes`, and whether it is `complete`.
    """
    rows = [row for _, report in sorted(every.items()) for row in report.rejected]
    kinds = Counter(row.kind for row in rows)
    fields: Counter[str] = Counter()
    for report in every.values():
        fields.update(report.fields)
    if rows:
        lines = (
            json.dumps({"source": job.plan.source, **dataclasses.asdict(row)}, ensure_ascii=False)
            for row in rows
        )
        write_file(join(job.out, REJECTED), "".join(f"{line}\n" for line in lines).encode())
    summary = {
        "complete": len(every) == job.shards,
        "examples": sum(report.examples for report in every.values()),
        "fields": dict(sorted(fields.items())),
        "classes": CLASSES in list_folder(job.out),
        "rejected": dict(sorted(kinds.items())),
        "shards": sum(report.examples > 0 for report in every.values()),
        "bytes": sum(report.bytes for report in every.values()),
    }
    _write_json(join(job.out, _ABOUT), {"plan": encode(job.plan), **summary})
    return summary


def _write_json(path: str, content: Any) -> None:
    write_file(path, (json.dumps(content, indent=2) + "\n").encode())
