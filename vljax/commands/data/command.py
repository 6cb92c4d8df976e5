"""The sub-commands of `vljax data`."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from vljax.config import UserError, suggest

if TYPE_CHECKING:
    from rich.console import Console

Command = Callable[[list[str], str, "Console"], dict[str, Any]]
"""From arguments, the command that messages show, and where tables go, to the result as data."""


def _index(argv: list[str], prog: str, console: Console) -> dict[str, Any]:
    from vljax.commands.data.index import index

    return index(argv, prog, console)


def _inspect(argv: list[str], prog: str, console: Console) -> dict[str, Any]:
    from vljax.commands.data.inspect import inspect

    return inspect(argv, prog, console)


def _build(argv: list[str], prog: str, console: Console) -> dict[str, Any]:
    from vljax.commands.data.build import build

    return build(argv, prog, console)


def _convert(argv: list[str], prog: str, console: Console) -> dict[str, Any]:
    from vljax.commands.data.convert import convert

    return convert(argv, prog, console)


def _train_tokenizer(argv: list[str], prog: str, console: Console) -> dict[str, Any]:
    from vljax.commands.data.train_tokenizer import train_tokenizer

    return train_tokenizer(argv, prog, console)


_COMMANDS: dict[str, tuple[Command, str]] = {
    "build": (_build, "download what a data set is made from, and build the data set"),
    "convert": (_convert, "write any data set as tar shards or ArrayRecord files"),
    "index": (_index, "build the indices of data sets, and count what is in them"),
    "inspect": (_inspect, "say what is in data sets; with pictures as an HTML file"),
    "train-tokenizer": (_train_tokenizer, "train a BPE on the captions of data sets"),
}


def main(argv: list[str], prog: str, *, tables_to_stderr: bool = False) -> dict[str, Any]:
    """Runs one sub-command.

    Args:
      argv: its name and arguments.
      prog: the command that messages show.
      tables_to_stderr: leaves standard output to the result.

    Returns:
      The result as JSON data.

    Raises:
      UserError: for bad input.
      SystemExit: after `--help`.
    """
    if argv and argv[0] in _COMMANDS:
        from rich.console import Console

        run, _ = _COMMANDS[argv[0]]
        return run(argv[1:], f"{prog} {argv[0]}", Console(stderr=tables_to_stderr))
    if argv and not argv[0].startswith("-"):
        raise UserError(f"unknown command {argv[0]!r} of {prog}{suggest(argv[0], _COMMANDS)}")
    parser = argparse.ArgumentParser(prog=prog, description="Work on data sets.")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for name, (_, summary) in _COMMANDS.items():
        commands.add_parser(name, help=summary)
    parser.parse_args(argv)
    raise SystemExit(2)
