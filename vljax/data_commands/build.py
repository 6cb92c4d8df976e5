"""`vljax data build NAME`."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vljax.config import UserError, suggest
from vljax.data.builders.debian import MIRROR

if TYPE_CHECKING:
    from rich.console import Console

NAMES = {"tuxpaint-stamps": "948 pictures with alpha, captions in 78 languages (GPL-2, 161 MB)"}


def build(argv: list[str], prog: str, console: Console) -> dict[str, Any]:
    """Builds a data set as the command line says, with progress on standard error.

    Args:
      argv: the arguments after `build`.
      prog: how the command was called, for help.
      console: where the result is printed for people.

    Returns:
      What was written.

    Raises:
      UserError: for an unknown name or bad input.
      SystemExit: after `--help`, and if an argument is not understood.
    """
    options = _parser(prog).parse_args(argv)
    if options.name not in NAMES:
        raise UserError(f"unknown data set {options.name!r}{suggest(options.name, NAMES)}")
    from vljax.data.builders import tuxpaint_stamps

    if options.sha256 is not None and options.deb is None:
        raise UserError("--sha256 goes with --deb: a download is of a known version")
    with _Display() as display:
        result = tuxpaint_stamps.build(
            options.out or Path("data") / options.name,
            deb=options.deb,
            mirror=options.mirror,
            sha256=options.sha256 or tuxpaint_stamps.PACKAGE.sha256,
            progress=display.update,
        )
    console.print(
        f"wrote {result['images']} images with captions in {result['languages']} languages "
        f"to {result['folder']}; README.md there tells about them",
        highlight=False,
    )
    return dict(result)


def _parser(prog: str) -> argparse.ArgumentParser:
    known = "\n".join(f"  {name:18}{what}" for name, what in NAMES.items())
    parser = argparse.ArgumentParser(
        prog=prog,
        description="Download what a data set is made from, verify it and build the data set.",
        epilog=f"data sets:\n{known}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
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


class _Display:
    """Progress bars, one a stage; their ends alone where standard error is no terminal."""

    def __enter__(self) -> _Display:
        from rich.console import Console
        from rich.progress import Progress

        self._bars = Progress(console=Console(stderr=True))
        self._tasks: dict[str, Any] = {}
        self._bars.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._bars.stop()

    def update(self, stage: str, done: int, total: int) -> None:
        if stage not in self._tasks:
            self._tasks[stage] = self._bars.add_task(stage, total=total)
        self._bars.update(self._tasks[stage], completed=done)
