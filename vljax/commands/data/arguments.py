"""What the command lines of `vljax data` share: errors of one line, help, counts."""

from __future__ import annotations

import argparse
from typing import Any, NoReturn

from vljax.config import UserError
from vljax.data_tools.source_arguments import HELP


class Parser(argparse.ArgumentParser):
    """Says what is wrong in one line, as the rest of vljax does.

    Args:
      options: of `argparse.ArgumentParser`.
    """

    def __init__(self, **options: Any) -> None:
        formatter = argparse.RawDescriptionHelpFormatter
        super().__init__(formatter_class=formatter, allow_abbrev=False, **options)

    def error(self, message: str) -> NoReturn:
        """Raises UserError."""
        raise UserError(message.removeprefix("argument "))


class SourceParser(Parser):
    """Parses options before, between and behind sources and their fields.

    Args:
      prog: the command that messages show.
      usage: what follows it.
      description: what the command does.
      epilog: what else there is to know.
    """

    def __init__(self, prog: str, usage: str, description: str, epilog: str = "") -> None:
        fields = f"`{prog} SOURCE --help` lists the fields of a source."
        super().__init__(
            prog=prog,
            usage=f"{prog} {usage}",
            description=description,
            epilog="\n".join(filter(None, (HELP, fields, epilog))),
            add_help=False,  # behind a source it is the help of that source
        )

    def split(self, argv: list[str]) -> tuple[argparse.Namespace, list[str]]:
        """The options, and the other arguments, for `parse_sources`.

        Raises:
          UserError: if an option does not fit.
          SystemExit: after help, which is for no arguments too.
        """
        if argv in ([], ["--help"], ["-h"]):
            self.print_help()
            raise SystemExit(0)
        options, rest = self.parse_known_args(argv)
        return options, ["--help" if word == "-h" else word for word in rest]


def count(text: str) -> int:
    """The type of an option that is a number of 1 or more."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"needs a number of 1 or more, got {text!r}")
    return int(text)
