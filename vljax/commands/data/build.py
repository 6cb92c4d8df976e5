"""`vljax data build NAME`."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vljax.commands.data.arguments import Parser
from vljax.config import UserError, suggest
from vljax.datasets.tuxpaint.debian import MIRROR

if TYPE_CHECKING:
    from rich.console import Console

    from vljax.data.records import Progress

NAMES = {
    "easy-vqa": "5,000 images, 48,248 questions (MIT, from the Python package easy-vqa 1.0)",
    "tuxpaint-stamps": "948 pictures with alpha, captions in 78 languages (GPL-2, 161 MB)",
}

_OPTIONS = {
    "deb": "tuxpaint-stamps",
    "mirror": "tuxpaint-stamps",
    "sha256": "tuxpaint-stamps",
    "package": "easy-vqa",
}
"""Options that go with one data set only."""


def run(argv: list[str], prog: str, console: Console) -> dict[str, Any]:
    """Builds a data set as the command line says, with progress on standard error.

    Args:
      argv: the arguments after `build`.
      prog: the command, for messages.
      console: where to print the summary.

    Returns:
      What was written.

    Raises:
      UserError: for an unknown name or bad input.
      SystemExit: after `--help`, and if an argument is not understood.
    """
    options = _parser(prog).parse_args(argv)
    if options.name not in NAMES:
        raise UserError(f"unknown data set {options.name!r}{suggest(options.name, NAMES)}")
    from vljax.progress import Display

    for option, name in _OPTIONS.items():
        if getattr(options, option) is not None and options.name != name:
            raise UserError(f"--{option}: is for {name}; leave it out for {options.name}")
    if options.sha256 is not None and options.deb is None:
        raise UserError("--sha256 goes with --deb: a download is of a known version")
    with Display(options.name) as display:
        stages: dict[str, Progress] = {}

        def progress(stage: str, done: int, total: int) -> None:
            if stage not in stages:
                stages[stage] = display.stage(stage, f"{stage} {{:,}} of {{:,}}")
            stages[stage](done, total)

        build = _easy_vqa if options.name == "easy-vqa" else _tuxpaint_stamps
        result, summary = build(options, options.out or Path("data") / options.name, progress)
    console.print(f"{summary}; README.md there tells about them", highlight=False, soft_wrap=True)
    return dict(result)


_Stages = Callable[[str, int, int], None]


def _tuxpaint_stamps(
    options: argparse.Namespace, out: Path, progress: _Stages
) -> tuple[Mapping[str, Any], str]:
    from vljax.datasets.tuxpaint import build as tuxpaint_stamps

    result = tuxpaint_stamps.build(
        out,
        deb=options.deb,
        mirror=options.mirror or MIRROR,
        sha256=options.sha256 or tuxpaint_stamps.PACKAGE.sha256,
        progress=progress,
    )
    what = f"{result['images']} images with captions in {result['languages']} languages"
    return result, f"wrote {what} to {result['folder']}"


def _easy_vqa(
    options: argparse.Namespace, out: Path, progress: _Stages
) -> tuple[Mapping[str, Any], str]:
    from vljax.datasets import easy_vqa

    result = easy_vqa.build(out, package=options.package, progress=progress)
    counts = (
        f"{result[f'{split}_images']:,} images with {result[f'{split}_questions']:,} questions"
        f" to {out / split}.jsonl"
        for split in easy_vqa.SPLITS
    )
    return result, f"wrote {', '.join(counts)}"


def _parser(prog: str) -> Parser:
    known = "\n".join(f"  {name:18}{what}" for name, what in NAMES.items())
    parser = Parser(
        prog=prog,
        description="Build a data set from the package that it is published in.",
        epilog=f"data sets:\n{known}",
    )
    parser.add_argument("name", metavar="NAME", help="the data set, see below")
    parser.add_argument(
        "--out", type=Path, metavar="DIR", help="folder to write to (default: data/NAME)"
    )
    parser.add_argument(
        "--package",
        type=Path,
        metavar="PATH",
        help="easy-vqa: its wheel or folder (default: the installed package)",
    )
    parser.add_argument(
        "--deb",
        type=Path,
        metavar="FILE",
        help="tuxpaint-stamps: use this package, download none",
    )
    parser.add_argument(
        "--mirror",
        metavar="URL",
        help=f"tuxpaint-stamps: where to download from (default: {MIRROR})",
    )
    parser.add_argument(
        "--sha256",
        metavar="DIGEST",
        help="tuxpaint-stamps: what the package of --deb must have, for other versions",
    )
    parser.add_argument("--json", metavar="PATH", help="write the result as JSON too; - for stdout")
    return parser
