"""The table that `vljax import` and `vljax export` print."""

from __future__ import annotations

import re
from collections.abc import Sequence

from rich.console import Console
from rich.table import Table

from vljax.interop.convert import Converted, Row


def print_converted(converted: Converted) -> None:
    """Prints the mapping of parameters, with one row for all blocks of a tower."""
    table = Table(title=f"{converted.format_title}: {converted.out}", title_justify="left")
    for column in ("vljax", converted.format_title, "shape", "layout", "arrays"):
        table.add_column(column, overflow="fold", justify="right" if column == "arrays" else "left")
    for (own, foreign, change), rows in _grouped(converted.rows).items():
        shape = " x ".join(map(str, rows[0].shape)) or "scalar"
        table.add_row(own, foreign, shape, change, str(len(rows)))
    console = Console()
    console.print(table)
    size = converted.nbytes / 1e6
    console.print(f"{converted.parameters:,} parameters, {size:,.1f} MB", highlight=False)
    for note in converted.notes:
        console.print(f"note: {note}", highlight=False)


def _grouped(rows: Sequence[Row]) -> dict[tuple[str, ...], list[Row]]:
    groups: dict[tuple[str, ...], list[Row]] = {}
    for row in rows:
        own = "\n".join(_any_layer(path) for path in row.own)
        groups.setdefault((own, _any_layer(row.foreign), row.change), []).append(row)
    return groups


def _any_layer(name: str) -> str:
    return re.sub(r"(?<=[/._])\d+(?=[/.])", "*", name)
