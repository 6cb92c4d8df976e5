"""The arguments of commands that take a recipe: RECIPE, --FIELD VALUE ..., --json PATH, ..."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

from vljax import config
from vljax.config import UserError

if TYPE_CHECKING:
    from vljax.run import Run

_OPTIONS_HELP = """\
--image_size N sets the size of images in the model and in all transforms, in pixels
--json PATH writes the result as JSON too; - for standard output"""


def load_run(argv: list[str], prog: str) -> Run:
    """The run that a recipe and its overrides describe.

    Args:
      argv: the recipe (a Python or JSON file), then `--FIELD VALUE ...` and `--image_size N`, which
        comes after the fields. `--help` among them prints all fields and exits.
      prog: the command, for messages.

    Raises:
      UserError: for an unknown recipe or field, or a value that does not fit.
    """
    import dataclasses

    from vljax.overrides import override
    from vljax.run import Run, with_image_size

    spec, *overrides = argv
    size, overrides = take_image_size(overrides)
    overrides = expanded(overrides)
    if spec.endswith(".json"):
        from vljax.workdir import read_recipe

        loaded = read_recipe(spec)
    else:
        loaded = config.load(spec, Run)
    run = override(loaded, overrides, f"{prog} {spec}", _OPTIONS_HELP)
    if size is not None:
        run = with_image_size(run, size)
    if run.workdir is None:
        file, _, variant = spec.partition(":")
        name = Path(file).stem + (f"-{variant}" if variant else "")
        run = dataclasses.replace(run, workdir=f"runs/{name}")
    return run


def expanded(overrides: list[str]) -> list[str]:
    """Overrides with the short form `--init PATH` as the field that it sets.

    >>> expanded(["--init", "runs/clip", "--init.resize", "True"])
    ['--init.path', 'runs/clip', '--init.resize', 'True']
    """
    return [re.sub("^--init(?==|$)", "--init.path", word) for word in overrides]


def take_image_size(argv: list[str]) -> tuple[int | None, list[str]]:
    """The value of `--image_size` in pixels, and the other arguments.

    Raises:
      UserError: if it is not a whole number of 1 or more.

    >>> take_image_size(["--image_size", "336", "--steps", "10"])
    (336, ['--steps', '10'])
    """
    word, rest = take_option("--image_size", "a number of pixels", argv)
    return number("--image_size", word), rest


def number(option: str, word: str | None) -> int | None:
    """The value of an option as a whole number of 1 or more; None for None.

    Raises:
      UserError: if it is none.
    """
    if word is None:
        return None
    if not word.isdecimal() or int(word) < 1:
        raise UserError(f"{option}: must be a whole number of 1 or more, not {word!r}")
    return int(word)


def take_json(argv: list[str]) -> tuple[str | None, list[str]]:
    """The value of `--json`, and the other arguments."""
    return take_option("--json", "a path, or - for standard output", argv)


def take_option(wanted: str, value_help: str, argv: list[str]) -> tuple[str | None, list[str]]:
    """The value of an option at any position, and the other arguments.

    The overrides of a recipe are parsed later, by the fields of its components, so argparse cannot
    separate the command's own options from them.

    Args:
      wanted: the option, such as `--json`; `-` and `_` in it are alike.
      value_help: its value in words, for the error.
      argv: all arguments.

    Raises:
      UserError: if the value is missing.
    """
    value, rest = None, list[str]()
    arguments = iter(argv)
    for argument in arguments:
        flag, equals, inline = argument.partition("=")
        if not flag.startswith("--") or flag.replace("-", "_") != wanted.replace("-", "_"):
            rest.append(argument)
            continue
        value = inline if equals else next(arguments, "")
        if not value or value.startswith("--"):
            raise UserError(f"{wanted} needs {value_help}")
    return value, rest
