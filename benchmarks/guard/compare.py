"""Compares counts with stored ones: worse, better, or not comparable."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

TOLERANCE = 0.01
"""Relative difference up to which counts are equal."""
UPDATE = "python benchmarks/counts.py --update"
STORED = Path(__file__).with_name("stored.json")

Counts = Mapping[str, int]


@dataclass(frozen=True)
class Stored:
    """The counts of an earlier version of the code."""

    versions: dict[str, str] = field(default_factory=dict)
    """Versions of the packages that compiled it; counts depend on them."""
    counts: dict[str, dict[str, int]] = field(default_factory=dict)
    """case -> name of the count -> count."""


def load(path: Path = STORED) -> Stored:
    """The stored counts; empty if there is no file."""
    return Stored(**json.loads(path.read_text())) if path.exists() else Stored()


def save(stored: Stored, path: Path = STORED) -> None:
    """Writes one count per line, so that a diff shows what changed."""
    path.write_text(json.dumps(asdict(stored), indent=2) + "\n")


def installed() -> dict[str, str]:
    """The versions of the installed packages that compile."""
    found = {}
    for package in ("jax", "jaxlib", "libtpu"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def other_versions(now: Mapping[str, str], stored: Mapping[str, str], *, on_tpu: bool) -> list[str]:
    """Packages with different versions, as messages; libtpu only if `on_tpu`."""
    packages = ("jax", "jaxlib", "libtpu") if on_tpu else ("jax", "jaxlib")
    return [
        f"{package} is {now.get(package, 'missing')}, stored {stored.get(package, 'none')}"
        for package in packages
        if now.get(package) != stored.get(package)
    ]


@dataclass(frozen=True)
class Change:
    """A count now and as stored; smaller is better."""

    case: str
    count: str
    now: int
    stored: int

    @property
    def share(self) -> float:
        """The relative increase over the stored count; infinite if that is 0."""
        if self.stored == 0:
            return float("inf") if self.now else 0.0
        return self.now / self.stored - 1

    @property
    def worse(self) -> bool:
        """Whether the guard fails."""
        return self.now > self.stored * (1 + TOLERANCE)

    @property
    def better(self) -> bool:
        """Whether the stored count should be lowered, to guard the gain."""
        return self.now < self.stored * (1 - TOLERANCE)

    def __str__(self) -> str:
        values = f"{self.count} {written(self.now)}, stored {written(self.stored)}"
        return f"{self.case}: {values} ({100 * self.share:+.1f} %)"


def written(count: int) -> str:
    """A count as text: in full up to a million, then four digits."""
    if count < 1_000_000:
        return str(count)
    digits, exponent = f"{count:.3e}".split("e")
    return f"{digits}e{int(exponent)}"


def changes(case: str, now: Counts, stored: Counts) -> list[Change]:
    """The counts that both have, as changes."""
    return [Change(case, name, now[name], stored[name]) for name in now if name in stored]


def missing(case: str, now: Counts, stored: Counts) -> list[str]:
    """Messages for the counts that only one side has: they cannot be compared."""
    if not stored:
        return [f"{case}: nothing is stored; run {UPDATE}"]
    new = [f"{case}: {name} is not stored; run {UPDATE}" for name in now if name not in stored]
    gone = [name for name in stored if name not in now]
    return new + [f"{case}: {name} is stored and not counted; run {UPDATE}" for name in gone]


def forgotten(cases: Iterable[str], stored: Stored) -> list[str]:
    """Messages for stored cases that no longer exist."""
    known = set(cases)
    gone = [name for name in stored.counts if name not in known]
    return [f"{name}: stored, but no case; run {UPDATE}" for name in gone]
