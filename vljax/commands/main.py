"""The `vljax` command. Nothing heavy is imported before a command needs it."""

from __future__ import annotations

import argparse
import importlib
import os
import select
import sys
from collections.abc import Callable, Sequence

from vljax import __version__
from vljax.commands import evaluate, finetune, import_export, interpolate, recipe_arguments, verify
from vljax.commands.output import write_json
from vljax.config import UserError, one_line
from vljax.host_process import leave_out_libtpu

_RECIPE_COMMANDS = {
    "train": "train a model as a recipe describes, or continue an earlier run",
    "check": "check within seconds whether a recipe can run, and print its sizes",
    "compile": "compile the step for a TPU slice or GPU node that is not there",
}
"""Each is the function `run` of the module of that name in this package."""

_RECIPE_HELP = """\
RECIPE is a file with a function recipe(), or FILE:VARIANT, or a JSON file such as run.json of a
workdir. Every field of the recipe can be set
after it: --optim.learning_rate 3e-4, --steps 20, --objectives.main sigmoid. --init PATH starts from
the parameters of another model. --image_size 336 sets the size of images in the model and in all
transforms.
`vljax %s RECIPE --help` lists the fields of a recipe with their values."""

_TOPOLOGY_HELP = """\
v5e:4x4 (chips of a TPU slice), v5e:4x4*2 (slices), h100:8 (GPUs of a node), h100:2x8 (nodes);
TPU: v4, v5e, v5p, v6e, tpu7x; GPU: a100, h100, h200, b200"""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command; returns its exit status.

    0 for success; 1 if a compiled step does not fit or a measured number differs from the published
    one; 2 for bad input; 128 + signal if a signal stopped it.
    """
    argv = list(sys.argv[1:] if argv is None else argv)
    return _exit_status(lambda: _dispatch(argv, "vljax"))


def train_main(default_recipe: str) -> int:
    """`python train.py [RECIPE] [overrides]`: `vljax train` with a default recipe."""
    argv = sys.argv[1:]

    def command() -> int:
        json_path, rest = recipe_arguments.take_json(argv)
        if not rest or rest[0].startswith("-"):
            rest = [default_recipe, *rest]
        return _run("train", rest, json_path, "python train.py")

    return _exit_status(command)


def _exit_status(command: Callable[[], int]) -> int:
    """Runs a command; errors that the user can act on are printed as one line."""
    leave_out_libtpu()
    try:
        try:
            return command()
        finally:
            sys.stdout.flush()
    except UserError as error:
        return _print_error(*error.lines)
    except OSError as error:
        if isinstance(error, BrokenPipeError) and _stdout_is_closed():
            return 128 + 13  # the status of SIGPIPE, which Python ignores
        file = f"{error.filename}: " if error.filename is not None else ""
        return _print_error(f"{file}{error.strerror or error}")
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        return 130


def _print_error(*messages: str) -> int:
    for message in messages:
        print(f"error: {one_line(message)}", file=sys.stderr)
    return 2


def _stdout_is_closed() -> bool:
    """Whether the reader of standard output has gone, as after `| head`."""
    try:
        out = sys.stdout.fileno()
    except OSError:  # replaced by something without a file
        return False
    poll = select.poll()
    poll.register(out, select.POLLOUT)
    if not any(event & select.POLLERR for _, event in poll.poll(0)):
        return False
    # Otherwise the interpreter would print another error when it flushes the buffer at exit.
    os.dup2(os.open(os.devnull, os.O_WRONLY), out)
    return True


def _dispatch(argv: list[str], prog: str) -> int:
    if argv[:1] == ["data"]:
        return _data(argv[1:], f"{prog} data")
    parser = argparse.ArgumentParser(prog=prog, description="Vision-language models in JAX.")
    parser.add_argument("--version", action="version", version=f"vljax {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for name, summary in _RECIPE_COMMANDS.items():
        options = {
            "compile": " --topology TOPOLOGY",
            "check": " [--records N] [--for FORMATS [--accept ISSUES] [--suggest]]",
        }
        option = options.get(name, "")
        command = commands.add_parser(
            name,
            help=summary,
            description=f"{summary[0].upper()}{summary[1:]}.",
            epilog=_RECIPE_HELP % name,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            usage=f"{prog} {name} RECIPE{option} [--image_size N] [--json PATH]"
            " [--FIELD VALUE ...]",
        )
        command.add_argument("recipe", metavar="RECIPE", help="such as configs/quickstart.py")
        size = "height and width of images, in the model and in all transforms"
        command.add_argument("--image_size", metavar="N", help=size)
        if name == "compile":
            command.add_argument("--topology", metavar="TOPOLOGY", help=_TOPOLOGY_HELP)
        if name == "check":
            records = "training examples to read, spread over the data; 200 by default, 0 for none"
            command.add_argument("--records", metavar="N", help=records)
            import_export.add_check_options(command)
        command.add_argument(
            "--json", metavar="PATH", help="write the result as JSON too; - for standard output"
        )
    commands.add_parser(
        "data", help="build, convert, index and inspect data sets, train tokenizers"
    )
    finetune.add(commands)
    interpolate.add(commands)
    import_export.add(commands)
    evaluate.add(commands)
    verify.add(commands)
    if argv[:1] == [evaluate.NAME]:
        fields, rest = evaluate.split(argv)
        asked = parser.parse_args(rest)
        write_json(asked.json, evaluate.run(asked, fields))
        return 0
    if argv[:1] == [verify.NAME]:
        return _verify(parser.parse_args(argv), f"{prog} {argv[0]}")
    if argv[:1] == [interpolate.NAME]:
        asked = parser.parse_args(argv)
        write_json(asked.json, interpolate.run(asked))
        return 0
    if argv[:1] == [finetune.NAME] and argv[1:] and argv[1] not in ("-h", "--help"):
        if argv[1].startswith("-"):
            words = f"{prog} {finetune.NAME} PATH {argv[1]} ..."
            raise UserError(f"{argv[1]} before PATH: write {words}")
        json_path, rest = recipe_arguments.take_json(argv[1:])
        return finetune.run(rest, json_path, f"{prog} {finetune.NAME}")
    if argv and argv[0] in import_export.NAMES:
        return import_export.run(argv[0], parser, argv, prog)
    if argv and argv[0] in _RECIPE_COMMANDS:
        name = argv[0]
        json_path, rest = recipe_arguments.take_json(argv[1:])
        if rest and rest[0].startswith("--") and rest[0] != "--help":
            raise UserError(f"{rest[0]} before RECIPE: write {prog} {name} RECIPE {rest[0]} ...")
        if rest and not rest[0].startswith("-"):
            # What follows RECIPE is parsed once the recipe is loaded, since it has the fields.
            return _run(name, rest, json_path, f"{prog} {name}")
        argv = [name, *rest]
    parser.parse_args(argv)
    return 2


def _run(name: str, argv: list[str], json_path: str | None, prog: str) -> int:
    module = importlib.import_module(f"vljax.commands.{name}")
    return int(module.run(argv, json_path, prog))


def _data(argv: list[str], prog: str) -> int:
    from vljax.commands.data import main as data_commands

    json_path, rest = recipe_arguments.take_json(argv)
    result = data_commands.main(rest, prog, tables_to_stderr=json_path == "-")
    write_json(json_path, result)
    return 0


def _verify(asked: argparse.Namespace, prog: str) -> int:
    """Status 1 if a number differs from the published one by more than the tolerance."""
    result = verify.run(asked, prog)
    write_json(asked.json, result)
    return 0 if result["agrees"] else 1


if __name__ == "__main__":
    sys.exit(main())
