"""`vljax interpolate`: a model between another one and its fine-tuned version (WiSE-FT).

Importing this file is cheap.
"""

from __future__ import annotations

import argparse
import os
import sys
from typing import Any

NAME = "interpolate"

_DESCRIPTION = """\
Makes OUT a workdir with one checkpoint, whose parameters are (1 - alpha) * ORIGINAL + alpha *
FINETUNED (WiSE-FT, Wortsman et al. 2022). ORIGINAL is the model that FINETUNED started from: a
checkpoint, workdir, exported folder, or folder of other software that `vljax import` reads.
FINETUNED is a checkpoint, or a workdir for its newest intact one. EMA parameters are used if there
are any."""


def add(commands: Any) -> None:
    """Adds the command to a parser's sub-commands."""
    command = commands.add_parser(
        NAME,
        help="average the weights of a model and its fine-tuned version",
        description=_DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    command.add_argument("original", metavar="ORIGINAL", help="the model before fine-tuning")
    command.add_argument("finetuned", metavar="FINETUNED", help="the model after it")
    command.add_argument("out", metavar="OUT", help="the workdir to make")
    command.add_argument(
        "--alpha",
        type=float,
        default=0.5,
        metavar="A",
        help="weight of FINETUNED, from 0 to 1; 0.5 by default",
    )
    command.add_argument("--overwrite", action="store_true", help="replace the folder at OUT")
    command.add_argument(
        "--json", metavar="PATH", help="write the result as JSON too; - for standard output"
    )


def run(asked: argparse.Namespace) -> dict[str, Any]:
    """Runs the command; returns its result as JSON data. Raises UserError for bad input."""
    # Nothing here needs an accelerator, and starting one takes time.
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    from vljax.interop.convert import interpolate_models
    from vljax.progress import shown

    with shown(NAME, "{:,} of {:,} bytes", "bytes") as report:
        notes = interpolate_models(
            asked.original,
            asked.finetuned,
            asked.out,
            alpha=asked.alpha,
            overwrite=asked.overwrite,
            report=report,
        )
    for note in notes:
        print(f"note: {note}", file=sys.stderr)
    return {"out": asked.out, "alpha": asked.alpha, "notes": notes}
