"""`vljax verify`: its arguments, and the table that it prints. Importing this file is cheap."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from vljax.config import UserError
from vljax.verify.released import RELEASED, REVISION, TASKS

if TYPE_CHECKING:
    from vljax.verify.measure import Comparison

NAME = "verify"
TOLERANCE = 0.5
"""The default tolerance in percentage points."""

_ABOUT = f"""\
Measures the published numbers of a released model again: zero-shot accuracy on ImageNet, retrieval
on COCO and Flickr30k. Prints the published value, the measured value and the difference; the exit
status is 1 if a difference exceeds the tolerance. vljax neither contains nor downloads weights or
data.

NAME is one of
  {{}}

--weights is a folder that `vljax import` reads, as published.

--data, which may be repeated, is
  ImageNet's validation set: a folder with a sub-folder for each class (n01440764, ...), or another
    data set with labels, TYPE:PATH. Class names and prompts are CLIP's, unless two files with a
    line each name others (--classes, --templates, or classnames.txt and
    zeroshot_classification_templates.txt beside the images);
  COCO or Flickr30k: Karpathy's dataset_coco.json or dataset_flickr30k.json, or the folder that
    holds it and the images.

The published values are open_clip's own measurements (docs/openclip_results.csv and
docs/openclip_retrieval_results.csv of github.com/mlfoundations/open_clip at {REVISION[:8]}), on
{"; ".join(f"{task.examples:,} images ({task.title})" for task in TASKS.values())}."""

_METRICS = {
    "accuracy@1": "zero-shot top-1",
    "image_to_text/recall@1": "image to text R@1",
    "text_to_image/recall@1": "text to image R@1",
}


def add(commands: Any) -> None:
    """Adds the command to a parser's sub-commands."""
    command = commands.add_parser(
        NAME,
        help="measure the published numbers of a released model again",
        description=_ABOUT.format("\n  ".join(RELEASED)),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    command.add_argument("model", metavar="NAME", help="such as ViT-B-32/openai")
    command.add_argument("--weights", required=True, metavar="PATH", help="the folder to read")
    command.add_argument(
        "--data",
        required=True,
        action="append",
        metavar="PATH",
        help="a data set; may be repeated",
    )
    for flag, what in (
        ("--classes", "file with ImageNet's class names, a line each, in the order of the classes"),
        ("--templates", "file with the prompts, a line each, with {} or {c} for the class name"),
        ("--images", "folder with the images of a split file, if they are not beside it"),
    ):
        command.add_argument(flag, metavar="PATH", help=what)
    command.add_argument(
        "--tolerance",
        type=float,
        default=TOLERANCE,
        metavar="POINTS",
        help=f"largest accepted difference in percentage points; {TOLERANCE} by default",
    )
    command.add_argument(
        "--batch-size",
        type=int,
        default=64,
        metavar="N",
        help="images or texts encoded at a time; 64 by default",
    )
    command.add_argument(
        "--json", metavar="PATH", help="write the result as JSON too; - for standard output"
    )


def run(asked: argparse.Namespace, prog: str) -> dict[str, Any]:
    """Measures, prints a table, and returns the result; `agrees` decides the exit status.

    Raises:
      UserError: for bad input.
    """
    # These modules import JAX.
    from vljax.progress import shown
    from vljax.verify.data import find_data_set
    from vljax.verify.measure import released, verify

    released(asked.model)
    if asked.tolerance < 0:
        raise UserError(f"--tolerance: must be 0 or more, got {asked.tolerance}")
    if asked.batch_size < 1:
        raise UserError(f"--batch-size: must be at least 1, got {asked.batch_size}")
    data = [
        find_data_set(
            path,
            images=asked.images,
            classes=asked.classes,
            templates=asked.templates,
            prog=prog,
        )
        for path in asked.data
    ]
    with shown(asked.model, "encoded {:,} of {:,} images and texts") as report:
        compared = verify(asked.model, asked.weights, data, asked.batch_size, report)
    if asked.json != "-":
        _print(asked.model, compared, asked.tolerance)
    return {
        "model": asked.model,
        "weights": asked.weights,
        "tolerance": asked.tolerance,
        "agrees": all(abs(one.difference) <= asked.tolerance for one in compared),
        "numbers": [one.as_dict() for one in compared],
    }


def _print(name: str, compared: Sequence[Comparison], tolerance: float) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(title=f"{name}, in percent", title_justify="left")
    for column in ("data", "figure", "published", "own", "difference", ""):
        table.add_column(column, justify="left" if column in ("data", "figure", "") else "right")
    for one in compared:
        over = abs(one.difference) > tolerance
        table.add_row(
            one.figure.task,
            _METRICS[one.figure.metric],
            f"{one.figure.percent:.2f}",
            f"{one.own:.2f}",
            f"{one.difference:+.2f}",
            f"more than {tolerance:g}" if over else "",
        )
    console = Console(emoji=False)
    console.print(table)
    for source in dict.fromkeys(one.figure.source for one in compared):
        console.print(f"published: {source}", highlight=False)
