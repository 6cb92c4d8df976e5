"""The arguments of `vljax verify`. Nothing heavy is imported here."""

from __future__ import annotations

import argparse
from typing import Any

from vljax.verify.released import RELEASED, REVISION, TASKS

NAME = "verify"
TOLERANCE = 0.5
"""Percentage points."""

_ABOUT = f"""\
Measures the published numbers of a released model again: zero-shot accuracy on ImageNet, retrieval
on COCO and Flickr30k. Prints published value, own value and difference; the status is 1 if one
differs by more than the tolerance. Neither weights nor data come with vljax, and none are fetched.

NAME is one of
  {{}}

--weights is a folder that `vljax import` reads, as people download it.

--data, which may be repeated, is
  ImageNet's validation set: a folder with a sub-folder for each class (n01440764, ...), or another
    data set with labels, TYPE:PATH; with the 1000 names and the 80 prompts of CLIP in two files, a
    line each (--classes, --templates), or beside the images as classnames.txt and
    zeroshot_classification_templates.txt;
  COCO or Flickr30k: Karpathy's dataset_coco.json or dataset_flickr30k.json, or the folder that it
    lies in with the images.
The names and prompts are texts of others (MIT licence) that are not part of vljax; docs/interop.md
has the two lines that write them with open_clip.

Published values are open_clip's own measurements (docs/openclip_results.csv and
docs/openclip_retrieval_results.csv of github.com/mlfoundations/open_clip at {REVISION[:8]}).
They are of {"; ".join(f"{task.examples:,} images ({task.what})" for task in TASKS.values())}."""


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
        ("--templates", "file with the prompts, a line each, {} or {c} where the name goes"),
        ("--images", "folder with the images of a split file, if they are not beside it"),
    ):
        command.add_argument(flag, metavar="PATH", help=what)
    command.add_argument(
        "--tolerance",
        type=float,
        default=TOLERANCE,
        metavar="POINTS",
        help=f"of a difference, in percentage points; {TOLERANCE} unless said otherwise",
    )
    command.add_argument(
        "--batch-size", type=int, default=64, metavar="N", help="encoded at a time; 64 unless said"
    )
    command.add_argument(
        "--json", metavar="PATH", help="write the result as JSON too; - for standard output"
    )
