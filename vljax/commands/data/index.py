"""`vljax data index`: builds the indices of data sets, and counts their examples and fields."""

from __future__ import annotations

from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from vljax.commands.data.arguments import SourceParser, count
from vljax.commands.output import cell
from vljax.data.records import INDEXED_SHARDS, Records, Source
from vljax.data_tools.source_arguments import parse_sources
from vljax.progress import shown

_DESCRIPTION = """\
Builds the index of tar shards in parallel, keeps it beside them, and counts what is in any data
set. An interrupted run continues where it stopped."""


def run(argv: list[str], prog: str, console: Console) -> dict[str, Any]:
    """Opens each source and prints a table of its counts.

    Returns:
      `sources`: for each its name, files, examples, counts of fields, and what was left out.

    Raises:
      UserError: if a source cannot be opened.
      SystemExit: after `--help`.
    """
    usage = "SOURCE... [--workers N] [--json PATH] [--FIELD VALUE ...]"
    parser = SourceParser(prog, usage, _DESCRIPTION)
    parser.add_argument(
        "--workers", type=count, metavar="N", help="processes; by default one a core"
    )
    parser.add_argument("--json", metavar="PATH", help="write the result as JSON too; - for stdout")
    options, rest = parser.split(argv)
    results = []
    for source in parse_sources(rest, prog):
        records = indexed(source, options.workers)
        results.append(_as_dict(source, records))
        _print(console, results[-1])
    return {"sources": results}


def indexed(source: Source, workers: int | None) -> Records:
    """Opens a source, building its index with progress if needed. Raises UserError as it does."""
    with shown(source.full_name, INDEXED_SHARDS) as progress:
        return source.index(workers, progress)


def _as_dict(source: Source, records: Records) -> dict[str, Any]:
    counted = records.counts
    return {
        "source": source.full_name,
        "type": source.type_name,
        "files": counted.files if counted else None,
        "examples": len(records),
        "classes": len(records.class_names),
        "fields": counted.fields if counted else {},
        "left_out": counted.left_out if counted else {},
        "named": counted.named if counted else {},
        "identity": records.identity,
    }


def _print(console: Console, result: dict[str, Any]) -> None:
    table = Table(box=box.HORIZONTALS)
    table.add_column(cell(result["source"]), overflow="fold")
    table.add_column("number", justify="right", no_wrap=True)
    if result["files"] is not None:
        table.add_row("files", f"{result['files']:,}")
    table.add_row("examples", f"{result['examples']:,}")
    if result["classes"]:
        table.add_row("classes", f"{result['classes']:,}")
    if result["fields"]:
        table.add_section()
        for name, count in sorted(result["fields"].items()):
            table.add_row(cell(f"with {name}"), f"{count:,}")
    if result["left_out"]:
        table.add_section()
        for reason, count in sorted(result["left_out"].items()):
            table.add_row(cell(f"left out: {reason}"), f"{count:,}")
    console.print(table)
