"""`vljax data convert`: writes a data set as ArrayRecord files or tar shards."""

from __future__ import annotations

import argparse
import shlex
from typing import TYPE_CHECKING, Any, get_args

from vljax.commands.data.arguments import SourceParser, count
from vljax.config import UserError
from vljax.data.records import INDEXED_SHARDS
from vljax.data_tools.convert.images import MAX_CONVERTED_PIXELS, Encoding, ImageOptions
from vljax.data_tools.convert.job import TARGETS
from vljax.data_tools.source_arguments import parse_sources
from vljax.files import expand_user

if TYPE_CHECKING:
    from rich.console import Console

    from vljax.data_tools.convert.run import ConvertOptions

_DESCRIPTION = """\
Writes a data set as tar shards (KEY.jpg, KEY.txt, KEY.json, as img2dataset writes them) or
ArrayRecord files: in parallel, in the order of the source, with all of its columns. The bytes do
not depend on the number of processes. Images are copied unless a smaller size or another format is
asked for. An interrupted run continues where it stopped."""


def run(argv: list[str], prog: str, console: Console) -> dict[str, Any]:
    """Converts one source, and prints how to read the result.

    Args:
      argv: the source with its fields, and the options below.
      prog: the command, for messages.
      console: where to print the summary.

    Returns:
      `out`, `to`, `read_with`, and what `vljax.data_tools.convert.run.convert` returns.

    Raises:
      UserError: for bad input.
      SystemExit: after `--help`.
    """
    args, rest = _parser(prog).split(argv)
    sources = parse_sources(rest, prog)
    options = _options(args, prog)
    if len(sources) > 1:
        raise UserError(f"convert one data set at a time, got {len(sources)}")
    from vljax.data_tools.convert.run import convert
    from vljax.progress import Display

    (source,) = sources
    with Display(source.full_name) as display:
        opening = display.stage("index", INDEXED_SHARDS)
        progress = display.stage("convert", "read {:,} of {:,} examples")
        summary = convert(source, options, opening, progress)
    result = {
        "out": options.out,
        "to": options.to,
        **summary,
        "read_with": _read_with(options, summary),
    }
    _print(console, result)
    return result


def _parser(prog: str) -> SourceParser:
    parser = SourceParser(
        prog,
        f"SOURCE --to {{{','.join(TARGETS)}}} --out DIR [options] [--FIELD VALUE ...]",
        _DESCRIPTION,
        f"Composed scenes: {prog} scenes --examples 10000 --objects.split train.",
    )
    add = parser.add_argument
    add("--to", choices=TARGETS, help="what to write")
    add("--out", metavar="DIR", help="an empty folder, local, gs:// or s3://")
    add(
        "--examples-per-shard",
        type=count,
        default=10_000,
        metavar="N",
        help="examples of the source in each shard (%(default)s)",
    )
    add("--max-side", type=count, metavar="PIXELS", help="scale longer images down to this")
    encodings = get_args(Encoding)
    add("--encode", choices=encodings, help="format of all images; by default that of the source")
    add("--quality", type=int, metavar="Q", help="of jpg and webp, 1 to 100 (95)")
    add(
        "--max-pixels",
        type=count,
        default=MAX_CONVERTED_PIXELS,
        metavar="N",
        help="reject images that must be decoded and have more pixels (%(default)s)",
    )
    add("--drop", nargs="+", default=[], metavar="COLUMN", help="columns to leave out")
    add(
        "--max-rejected-share",
        type=float,
        default=0.1,
        metavar="SHARE",
        help="stop if a larger fraction of the examples cannot be used (%(default)s)",
    )
    add("--workers", type=count, metavar="N", help="processes; by default one a core")
    add(
        "--beam",
        metavar="ARGUMENTS",
        help="let Apache Beam do the work: --beam='--runner=DataflowRunner --project=P ...' "
        "(extra `beam`)",
    )
    add("--json", metavar="PATH", help="write the result as JSON too; - for stdout")
    return parser


def _options(args: argparse.Namespace, prog: str) -> ConvertOptions:
    for name in ("to", "out"):
        if getattr(args, name) is None:
            raise UserError(f"--{name} is missing: {prog} SOURCE --to {TARGETS[0]} --out DIR")
    if not 0 <= args.max_rejected_share <= 1:
        raise UserError(f"--max-rejected-share: must be 0 to 1, got {args.max_rejected_share}")
    images = ImageOptions(args.max_side, args.encode, args.quality, args.max_pixels)
    for option, message in images.problems():
        raise UserError(f"{option}: {message}")
    from vljax.data_tools.convert.run import ConvertOptions

    return ConvertOptions(
        out=expand_user(args.out),
        to=args.to,
        examples_per_shard=args.examples_per_shard,
        images=images,
        drop=tuple(args.drop),
        max_rejected_share=args.max_rejected_share,
        workers=args.workers,
        beam=None if args.beam is None else tuple(shlex.split(args.beam)),
    )


def _read_with(options: ConvertOptions, summary: dict[str, Any]) -> str:
    """The recipe fields that read the whole result."""
    words = ["--data.source", options.to, "--data.source.path", options.out]
    columns = {"captions": "captions", "tags": "tags", "label": "class"}
    for field, column in columns.items():
        if column in summary["fields"] and options.to == "webdataset":
            words += [f"--data.source.{field}", f"json.{column}"]
    if summary["classes"]:
        words += ["--data.source.classes", f"{options.out}/classes.txt"]
    return shlex.join(words)


def _print(console: Console, result: dict[str, Any]) -> None:
    new = result["new_shards"]
    lines = [
        f"{result['out']}: {result['examples']:,} examples in {result['shards']:,} shards "
        f"({result['bytes']:,} bytes), {new:,} of them written now"
    ]
    if result["rejected"]:
        kinds = ", ".join(f"{kind} {count:,}" for kind, count in result["rejected"].items())
        total = sum(result["rejected"].values())
        lines.append(f"left out {total:,}: {kinds}; {result['out']}/rejected.jsonl lists them")
    lines.append(f"To train on it: {result['read_with']}")
    for line in lines:
        console.print(line, highlight=False, soft_wrap=True, markup=False)
