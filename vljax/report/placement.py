"""What is printed of where parameters are."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from vljax.parallel.placement import ParameterPlacement
from vljax.report.text import in_bytes, say


class _Group(NamedTuple):
    """Parameters of one shape and sharding whose paths are all combinations of some segments."""

    segments: tuple[tuple[str, ...], ...]
    members: tuple[ParameterPlacement, ...]

    @property
    def path(self) -> str:
        return "/".join(map(_braced, self.segments))


def print_placement(rows: Sequence[ParameterPlacement], console: Console | None = None) -> None:
    """How parameters are split over devices, alike ones in a row; and what could not be split."""
    console = console or Console()
    split = [row for row in rows if row.split]
    whole = [row for row in rows if not row.split]
    if not split:
        say(console, f"every parameter whole on each device: {_per_device(rows)}")
    else:
        console.print(_table(split, whole))
    reasons = dict.fromkeys(why for row in rows for why in row.unsplit.values())
    for reason in reasons:
        kept = [row for row in rows if reason in row.unsplit.values()]
        paths = ", ".join(group.path for group in _grouped(kept))
        say(console, f"not split: {reason}: {paths} ({_per_device(kept)} on each device)")


def _table(split: Sequence[ParameterPlacement], whole: Sequence[ParameterPlacement]) -> Table:
    table = Table(box=box.HORIZONTALS)
    table.add_column("parameter", overflow="fold")
    table.add_column("shape", overflow="fold")
    table.add_column("per device", justify="right", no_wrap=True)
    for sharding in dict.fromkeys(row.sharding for row in split):
        table.add_row(f"[bold]{sharding}[/bold]")
        for group in _grouped([row for row in split if row.sharding == sharding]):
            shape = " x ".join(map(str, group.members[0].shape))
            table.add_row(f"  {escape(group.path)}", shape, _per_device(group.members))
        table.add_section()
    if whole:
        table.add_row("[bold]whole[/bold]")
        table.add_row(f"  {len(whole)} arrays", "", _per_device(whole))
    return table


def _per_device(rows: Iterable[ParameterPlacement]) -> str:
    return in_bytes(sum(row.bytes_per_device for row in rows))


def _grouped(rows: Sequence[ParameterPlacement]) -> list[_Group]:
    groups = [_Group(tuple((part,) for part in row.path.split("/")), (row,)) for row in rows]
    for place in range(max((len(group.segments) for group in groups), default=0)):
        alike: dict[object, list[_Group]] = {}
        for group in groups:
            first, parts = group.members[0], group.segments
            kind = (first.shape, first.sharding, *first.unsplit.values())
            alike.setdefault((kind, parts[:place], parts[place + 1 :]), []).append(group)
        groups = [_joined(found, place) for found in alike.values()]
    return groups


def _joined(groups: Sequence[_Group], place: int) -> _Group:
    """One group of groups whose paths differ in a single segment."""
    if len(groups) == 1:
        return groups[0]
    parts = groups[0].segments
    here = tuple(name for group in groups for name in group.segments[place])
    members = tuple(row for group in groups for row in group.members)
    return _Group((*parts[:place], here, *parts[place + 1 :]), members)


def _braced(names: Sequence[str]) -> str:
    """Alternatives as a shell writes them: {image,text}, {0..11}."""
    if len(names) == 1:
        return names[0]
    if all(name.isdigit() for name in names):
        numbers = sorted(map(int, names))
        if numbers == list(range(numbers[0], numbers[-1] + 1)):
            return f"{{{numbers[0]}..{numbers[-1]}}}"
    return f"{{{','.join(names)}}}"
