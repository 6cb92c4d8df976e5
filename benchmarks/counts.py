"""Counts of the compiled training steps of the recipes, compared with stored counts.

python benchmarks/counts.py [--only NAME,...] [--update]

FLOPs, bytes, temporaries, transposes, copies and predicted TPU cycles of real training steps
(`benchmarks/guard/cases.py`). Counts, not seconds: they are the same on every x86-64 machine.
Nothing runs. Exit status 1 if one is more than 1 % worse than stored in
`benchmarks/guard/stored.json`, or cannot be compared. Takes some minutes on two cores; TPU cases
need libtpu (`pip install 'vljax[tpu-aot]'`).
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.guard import compare
from benchmarks.guard.cases import CASES
from benchmarks.guard.measure import counts


def main(argv: Sequence[str] | None = None, path: Path = compare.STORED) -> int:
    """Prints a row for each count; problems go to standard error, one line each."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--only", help=f"names, separated by commas: {', '.join(CASES)}")
    parser.add_argument("--update", action="store_true", help="store what is counted now")
    options = parser.parse_args(argv)
    names = options.only.split(",") if options.only else list(CASES)
    if unknown := [name for name in names if name not in CASES]:
        parser.error(f"unknown: {', '.join(unknown)}")
    stored, versions = compare.load(path), compare.installed()
    on_tpu = any(CASES[name].needs_libtpu for name in names)
    if on_tpu and "libtpu" not in versions:
        return _complain(["libtpu is not installed: pip install 'vljax[tpu-aot]'"])
    others = compare.other_versions(versions, stored.versions, on_tpu=on_tpu)
    if options.update:
        kept = stored.counts if options.only else {}
        if kept and others:
            hint = f"all have to be counted anew: {compare.UPDATE}, without --only"
            return _complain([*others, hint])
        new = {name: _shown(name, stored) for name in names}
        compare.save(compare.Stored(versions, {**kept, **new}), path)
        return 0
    if others:
        hint = f"counts of other compilers cannot be compared; store anew: {compare.UPDATE}"
        return _complain([*others, hint])
    problems = [] if options.only else compare.forgotten(CASES, stored)
    for name in names:
        problems += _problems(name, stored)
    return _complain(problems)


def _problems(name: str, stored: compare.Stored) -> list[str]:
    """Messages for counts that are worse than stored or cannot be compared."""
    now, before, title = _shown(name, stored), stored.counts.get(name, {}), CASES[name].title
    changes = compare.changes(title, now, before)
    for change in changes:
        if change.better:
            print(f"better: {change}; keep it: {compare.UPDATE} --only {name}", file=sys.stderr)
    return [str(change) for change in changes if change.worse] + compare.missing(title, now, before)


def _shown(name: str, stored: compare.Stored) -> dict[str, int]:
    """The counts of a case, printed as rows of the table."""
    title, before = CASES[name].title, stored.counts.get(name, {})
    print(f"{name}: compiling {title}", file=sys.stderr, flush=True)
    now = counts(name)
    print(f"{title:32}{'stored':>12}{'now':>12}{'difference':>12}")
    for count, value in now.items():
        old, change = "", ""
        if count in before:
            old = compare.written(before[count])
            change = f"{compare.Change(title, count, value, before[count]).share:+.2%}"
        print(f"  {count:30}{old:>12}{compare.written(value):>12}{change:>12}", flush=True)
    return now


def _complain(problems: Sequence[str]) -> int:
    for line in problems:
        print(line, file=sys.stderr)
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
