"""`vljax data`: parses the name of a sub-command and runs it."""

from __future__ import annotations

import argparse
import importlib
from typing import Any

from vljax.config import UserError, suggest

_COMMANDS = {
    "answers": "write the most frequent answers, names of objects or tags of data sets",
    "build": "build a data set from the package that it is published in",
    "convert": "write any data set as tar shards or ArrayRecord files",
    "index": "build the indices of data sets, and count what is in them",
    "inspect": "print statistics of data sets; with pictures as an HTML file",
    "train-tokenizer": "train a BPE on the captions of data sets",
}
"""Command -> summary. A command is the function `run` of the module of its name in this package."""


def main(argv: list[str], prog: str, *, tables_to_stderr: bool = False) -> dict[str, Any]:
    """Runs one sub-command.

    Args:
      argv: its name and arguments.
      prog: the command, for messages.
      tables_to_stderr: print tables to standard error, since standard output gets the JSON.

    Returns:
      The result as JSON data.

    Raises:
      UserError: for bad input.
      SystemExit: after `--help`.
    """
    if argv and argv[0] in _COMMANDS:
        from rich.console import Console

        module = importlib.import_module(f"vljax.commands.data.{argv[0].replace('-', '_')}")
        result: dict[str, Any] = module.run(
            argv[1:], f"{prog} {argv[0]}", Console(stderr=tables_to_stderr, emoji=False)
        )
        return result
    if argv and not argv[0].startswith("-"):
        raise UserError(f"unknown command {argv[0]!r} of {prog}{suggest(argv[0], _COMMANDS)}")
    parser = argparse.ArgumentParser(prog=prog, description="Work on data sets.")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for name, summary in _COMMANDS.items():
        commands.add_parser(name, help=summary)
    parser.parse_args(argv)
    raise SystemExit(2)
