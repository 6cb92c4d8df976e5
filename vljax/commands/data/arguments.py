"""Argument parsers of the `vljax data` commands."""

from __future__ import annotations

import argparse
from typing import Any, NoReturn

from vljax.config import UserError
from vljax.data_tools.source_arguments import HELP


class Parser(argparse.ArgumentParser):
    """An `ArgumentParser` whose errors are `UserError`, which prints one line.

    Args:
      options: those of `argparse.ArgumentParser`.
    """

    def __init__(self, **options: Any) -> None:
        formatter = argparse.RawDescriptionHelpFormatter
        super().__init__(formatter_class=formatter, allow_abbrev=False, **options)

    def error(self, message: str) -> NoReturn:
        """Raises UserError."""
        raise UserError(message.removeprefix("argument "))


class SourceParser(Parser):
    """Parses options that may stand before, between or after sources and their fields.

    Args:
      prog: the command, for messages.
      usage: its arguments.
      description: what the command does.
      epilog: more help.
    """

    def __init__(self, prog: str, usage: str, description: str, epilog: str = "") -> None:
        fields = f"`{prog} SOURCE --help` lists the fields of a source."
        super().__init__(
            prog=prog,
            usage=f"{prog} {usage}",
            description=description,
            epilog="\n".join(filter(None, (HELP, fields, epilog))),
            add_help=False,  # after a source, --help prints the fields of that source
        )

    def split(self, argv: list[str]) -> tuple[argparse.Namespace, list[str]]:
        """The options, and the remaining arguments for `parse_sources`.

        Raises:
          UserError: for a bad option.
          SystemExit: after the help, which is also printed if there are no arguments.
        """
        if argv in ([], ["--help"], ["-h"]):
            self.print_help()
            raise SystemExit(0)
        options, rest = self.parse_known_args(argv)
        return options, ["--help" if word == "-h" else word for word in rest]


def count(text: str) -> int:
    """Parses the value of an option that must be an integer of 1 or more."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"needs a number of 1 or more, got {text!r}")
    return int(text)
