"""The `vljax` command. Nothing heavy is imported before a command needs it."""

from __future__ import annotations

import argparse
import json
import shlex
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vljax import __version__
from vljax.config import UserError

if TYPE_CHECKING:
    from vljax.run import Run

_OVERRIDES = """\
RECIPE is a file with a function recipe(), or FILE:VARIANT. Every field of the recipe can be set
behind it: --optim.learning_rate 3e-4, --steps 20, --objectives.main sigmoid.
`vljax %s RECIPE --help` lists the fields of a recipe with their values."""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command; returns its exit status: 0, 2 for bad input, 128 + signal if stopped."""
    argv = list(sys.argv[1:] if argv is None else argv)
    return _guarded(lambda: _dispatch(argv, "vljax"))


def train_main(default_recipe: str) -> int:
    """`python train.py [RECIPE] [overrides]`: `vljax train` with a default recipe."""
    argv = sys.argv[1:]
    if not argv or argv[0].startswith("-"):
        argv = [default_recipe, *argv]
    return _guarded(lambda: _train(argv, "python train.py"))


def _guarded(command: Callable[[], int]) -> int:
    try:
        return command()
    except UserError as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        return 130


def _dispatch(argv: list[str], prog: str) -> int:
    parser = argparse.ArgumentParser(prog=prog, description="Vision-language models in JAX.")
    parser.add_argument("--version", action="version", version=f"vljax {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for name, run, summary in (
        ("train", _train, "train a model as a recipe says; goes on where an earlier run stopped"),
        ("check", _check, "say within seconds whether a recipe can run, and what it is"),
    ):
        command = commands.add_parser(
            name,
            help=summary,
            description=f"{summary[0].upper()}{summary[1:]}.",
            epilog=_OVERRIDES % name,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            usage=f"{prog} {name} RECIPE [--json PATH] [--FIELD VALUE ...]",
        )
        command.set_defaults(run=run, name=name)
        command.add_argument("recipe", metavar="RECIPE", help="such as configs/quickstart.py")
        command.add_argument(
            "--json", metavar="PATH", help="write the result as JSON too; - for standard output"
        )
    if len(argv) > 1 and argv[0] in commands.choices and not argv[1].startswith("-"):
        # The fields of a recipe, `--help` among them, are not for argparse.
        known: Any = commands.choices[argv[0]].parse_args(argv[1:2])
        return int(known.run(argv[1:], f"{prog} {known.name}"))
    parser.parse_args(argv)
    return 2


def _train(argv: list[str], prog: str) -> int:
    spec, json_path, overrides = _split(argv)
    run = _load(spec, overrides, prog)
    import signal

    from vljax.launch import train
    from vljax.report import print_finished
    from vljax.training.interrupt import Interrupted

    try:
        finished = train(run)
    except Interrupted as stop:
        again = shlex.join([*prog.split(), *argv])
        name = signal.Signals(stop.signum).name
        print(f"stopped by {name}; saved at step {stop.step}. To go on: {again}", file=sys.stderr)
        return 128 + stop.signum
    print_finished(finished)
    _write_json(json_path, {"workdir": finished.workdir, "step": finished.step, **finished.metrics})
    return 0


def _check(argv: list[str], prog: str) -> int:
    spec, json_path, overrides = _split(argv)
    run = _load(spec, overrides, prog)
    from vljax.report import print_summary, summarise
    from vljax.run import prepare

    summary = summarise(prepare(run))
    if json_path != "-":
        print_summary(spec, summary)
    _write_json(json_path, summary)
    return 0


def _load(spec: str, overrides: list[str], prog: str) -> Run:
    import dataclasses

    from vljax import config
    from vljax.overrides import override
    from vljax.run import Run

    run = override(config.load(spec, Run), overrides, f"{prog} {spec}")
    if run.workdir is None:
        file, _, variant = spec.partition(":")
        name = Path(file).stem + (f"-{variant}" if variant else "")
        run = dataclasses.replace(run, workdir=f"runs/{name}")
    return run


def _split(argv: list[str]) -> tuple[str, str | None, list[str]]:
    """The recipe, the value of `--json`, and the overrides."""
    spec, rest = argv[0], argv[1:]
    json_path = None
    if "--json" in rest:
        at = rest.index("--json")
        if at + 1 == len(rest):
            raise UserError("--json needs a path, or - for standard output")
        json_path = rest[at + 1]
        rest = rest[:at] + rest[at + 2 :]
    return spec, json_path, rest


def _write_json(path: str | None, data: dict[str, Any]) -> None:
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


if __name__ == "__main__":
    sys.exit(main())
