"""Output of commands: lines, sizes in bytes, and results as JSON."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vljax.config import UserError
from vljax.files import printable

if TYPE_CHECKING:
    from rich.console import Console


def print_line(console: Console, line: str) -> None:
    """Prints one line without wrapping it, without markup and without control characters."""
    console.print(printable(line), highlight=False, markup=False, soft_wrap=True)


def cell(text: str) -> str:
    """Text of a data set as a cell of a table: without markup and control characters."""
    from rich.markup import escape

    return escape(printable(text))


def write_json(path: str | None, data: dict[str, Any]) -> None:
    """Writes the result of a command for `--json PATH`.

    Args:
      path: the file; "-" for standard output; None writes nothing.
      data: the result.

    Raises:
      UserError: if the file cannot be written.
    """
    if path is None:
        return
    text = json.dumps(data, indent=2) + "\n"
    if path == "-":
        sys.stdout.write(text)
        return
    try:
        Path(path).write_text(text)
    except OSError as error:
        raise UserError(f"--json {path}: {error.strerror}") from None
