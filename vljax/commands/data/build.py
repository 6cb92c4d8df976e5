"""`vljax data build NAME`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from vljax.commands.data.arguments import Parser
from vljax.config import UserError, suggest
from vljax.datasets.tuxpaint.debian import MIRROR

if TYPE_CHECKING:
    from rich.console import Console

    from vljax.data.records import Progress

NAMES = {"tuxpaint-stamps": "948 pictures with alpha, captions in 78 languages (GPL-2, 161 MB)"}


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
    from vljax.datasets.tuxpaint import build as tuxpaint_stamps
    from vljax.progress import Display

    if options.sha256 is not None and options.deb is None:
        raise UserError("--sha256 goes with --deb: a download is of a known version")
    with Display(options.name) as display:
        stages: dict[str, Progress] = {}

        def progress(stage: str, done: int, total: int) -> None:
            if stage not in stages:
                stages[stage] = display.stage(stage, f"{stage} {{:,}} of {{:,}}")
            stages[stage](done, total)

        result = tuxpaint_stamps.build(
            options.out or Path("data") / options.name,
            deb=options.deb,
            mirror=options.mirror,
            sha256=options.sha256 or tuxpaint_stamps.PACKAGE.sha256,
            progress=progress,
        )
    console.print(
        f"wrote {result['images']} images with captions in {result['languages']} languages "
        f"to {result['folder']}; README.md there tells about them",
        highlight=False,
    )
    return dict(result)


def _parser(prog: str) -> Parser:
    known = "\n".join(f"  {name:18}{what}" for name, what in NAMES.items())
    parser = Parser(
        prog=prog,
        description="Download what a data set is made from, verify it and build the data set.",
        epilog=f"data sets:\n{known}",
    )
    parser.add_argument("name", metavar="NAME", help="of the data set, see below")
    parser.add_argument(
        "--out", type=Path, metavar="DIR", help="folder to write to (default: data/NAME)"
    )
    parser.add_argument("--deb", type=Path, metavar="FILE", help="use this package, download none")
    parser.add_argument("--mirror", default=MIRROR, metavar="URL", help=f"default: {MIRROR}")
    parser.add_argument(
        "--sha256", metavar="DIGEST", help="what the package of --deb must have, for other versions"
    )
    parser.add_argument("--json", metavar="PATH", help="write the result as JSON too; - for stdout")
    return parser
