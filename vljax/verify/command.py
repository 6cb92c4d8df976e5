"""The command: from arguments to a table."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

from vljax.config import UserError
from vljax.progress import shown
from vljax.verify.data import given
from vljax.verify.measure import Compared, released, verify

_DIRECTIONS = {
    "accuracy@1": "zero-shot top-1",
    "image_to_text/recall@1": "image to text R@1",
    "text_to_image/recall@1": "text to image R@1",
}


def run(asked: argparse.Namespace, prog: str) -> dict[str, Any]:
    """Measures and prints; the result as data, `agrees` for the exit status.

    Raises:
      UserError: for bad input.
    """
    released(asked.model)
    if asked.tolerance < 0:
        raise UserError(f"--tolerance: must be 0 or more, got {asked.tolerance}")
    if asked.batch_size < 1:
        raise UserError(f"--batch-size: must be at least 1, got {asked.batch_size}")
    data = [
        given(
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
    agrees = all(abs(one.difference) <= asked.tolerance for one in compared)
    if asked.json != "-":
        _print(asked.model, compared, asked.tolerance)
    rows = [one.as_dict() for one in compared]
    return {
        "model": asked.model,
        "weights": asked.weights,
        "tolerance": asked.tolerance,
        "agrees": agrees,
        "numbers": rows,
    }


def _print(name: str, compared: Sequence[Compared], tolerance: float) -> None:
    table = Table(title=f"{name}, in percent", title_justify="left")
    for column in ("data", "figure", "published", "own", "difference", ""):
        table.add_column(column, justify="left" if column in ("data", "figure", "") else "right")
    for one in compared:
        over = abs(one.difference) > tolerance
        table.add_row(
            one.figure.task,
            _DIRECTIONS[one.figure.metric],
            f"{one.figure.percent:.2f}",
            f"{one.own:.2f}",
            f"{one.difference:+.2f}",
            f"more than {tolerance:g}" if over else "",
        )
    console = Console()
    console.print(table)
    for source in dict.fromkeys(one.figure.source for one in compared):
        console.print(f"published: {source}", highlight=False)
