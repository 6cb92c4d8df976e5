"""The `vljax` command. Nothing heavy is imported before a command needs it."""

from __future__ import annotations

import argparse
import json
import os
import select
import shlex
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vljax import __version__, config
from vljax.commands import import_export, verify
from vljax.config import UserError

if TYPE_CHECKING:
    from vljax.run import Run

_OVERRIDES = """\
RECIPE is a file with a function recipe(), or FILE:VARIANT. Every field of the recipe can be set
behind it: --optim.learning_rate 3e-4, --steps 20, --objectives.main sigmoid.
`vljax %s RECIPE --help` lists the fields of a recipe with their values."""

_TOPOLOGIES = """\
v5e:4x4 (chips of a TPU slice), v5e:4x4*2 (slices), h100:8 (GPUs of a node), h100:2x8 (nodes);
TPU: v4, v5e, v5p, v6e, tpu7x; GPU: a100, h100, h200, b200"""

_ASKED = {"compile": " --topology TOPOLOGY"}

_RESULT = "--json PATH writes the result as JSON too; - for standard output"


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command; returns its exit status.

    0; 1 if a compiled step does not fit, or a number is not as published; 2 for bad input;
    128 + signal if stopped.
    """
    argv = list(sys.argv[1:] if argv is None else argv)
    return _guarded(lambda: _dispatch(argv, "vljax"))


def train_main(default_recipe: str) -> int:
    """`python train.py [RECIPE] [overrides]`: `vljax train` with a default recipe."""
    argv = sys.argv[1:]

    def command() -> int:
        json_path, rest = _take_json(argv)
        if not rest or rest[0].startswith("-"):
            rest = [default_recipe, *rest]
        return _train(rest, json_path, "python train.py")

    return _guarded(command)


def _guarded(command: Callable[[], int]) -> int:
    """The exit status of a command; what a person can do something about is one line."""
    try:
        try:
            return command()
        finally:
            sys.stdout.flush()
    except UserError as error:
        return _complain(str(error))
    except OSError as error:
        if isinstance(error, BrokenPipeError) and _reader_is_gone():
            return 128 + 13  # as if SIGPIPE had ended it, which Python ignores
        file = f"{error.filename}: " if error.filename is not None else ""
        return _complain(f"{file}{error.strerror or error}")
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        return 130


def _complain(message: str) -> int:
    print(f"error: {' '.join(message.split())}", file=sys.stderr)
    return 2


def _reader_is_gone() -> bool:
    """Whether standard output is a pipe that nobody reads, as after `| head`."""
    try:
        out = sys.stdout.fileno()
    except OSError:  # replaced by something without a file
        return False
    poll = select.poll()
    poll.register(out, select.POLLOUT)
    if not any(event & select.POLLERR for _, event in poll.poll(0)):
        return False
    # What is still buffered would fail once more, and aloud, when the interpreter ends.
    os.dup2(os.open(os.devnull, os.O_WRONLY), out)
    return True


def _dispatch(argv: list[str], prog: str) -> int:
    if argv[:1] == ["data"]:
        return _data(argv[1:], f"{prog} data")
    parser = argparse.ArgumentParser(prog=prog, description="Vision-language models in JAX.")
    parser.add_argument("--version", action="version", version=f"vljax {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for name, run, summary in (
        ("train", _train, "train a model as a recipe says; goes on where an earlier run stopped"),
        ("check", _check, "say within seconds whether a recipe can run, and what it is"),
        ("compile", _compile, "compile the step for a TPU slice or GPU node that is not there"),
    ):
        command = commands.add_parser(
            name,
            help=summary,
            description=f"{summary[0].upper()}{summary[1:]}.",
            epilog=_OVERRIDES % name,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            usage=f"{prog} {name} RECIPE{_ASKED.get(name, '')} [--json PATH] [--FIELD VALUE ...]",
        )
        command.set_defaults(run=run, name=name)
        command.add_argument("recipe", metavar="RECIPE", help="such as configs/quickstart.py")
        if name == "compile":
            command.add_argument("--topology", metavar="TOPOLOGY", help=_TOPOLOGIES)
        command.add_argument(
            "--json", metavar="PATH", help="write the result as JSON too; - for standard output"
        )
    commands.add_parser(
        "data", help="build, convert, index and inspect data sets, train tokenizers"
    )
    import_export.add(commands)
    verify.add(commands)
    if argv[:1] == [verify.NAME]:
        return _verify(parser.parse_args(argv), f"{prog} {argv[0]}")
    if argv and argv[0] in import_export.NAMES:
        return _import_or_export(argv[0], parser, argv, prog)
    if argv and argv[0] in commands.choices:
        name = argv[0]
        json_path, rest = _take_json(argv[1:])
        if rest and rest[0].startswith("--") and rest[0] != "--help":
            raise UserError(f"{rest[0]} before RECIPE: write {prog} {name} RECIPE {rest[0]} ...")
        if rest and not rest[0].startswith("-"):
            # The fields of a recipe, `--help` among them, are not for argparse.
            known: Any = commands.choices[name].parse_args(rest[:1])
            return int(known.run(rest, json_path, f"{prog} {name}"))
        argv = [name, *rest]
    parser.parse_args(argv)
    return 2


def _train(argv: list[str], json_path: str | None, prog: str) -> int:
    from vljax.host_process import keep_freed_memory

    keep_freed_memory()  # before NumPy and JAX start threads
    run = _load(argv, prog)
    if run.workdir is not None and "://" in run.workdir:
        config.path_exists(run.workdir)  # which raises if it is out of reach
    import signal

    from vljax.launch import train
    from vljax.parallel.processes.start import is_first
    from vljax.report import print_finished
    from vljax.training.interrupt import Interrupted

    try:
        finished = train(run)
    except Interrupted as stop:
        to_json = [] if json_path is None else ["--json", json_path]
        again = shlex.join([*prog.split(), *argv, *to_json])
        name = signal.Signals(stop.signum).name
        if is_first():
            saved = f"stopped by {name}; saved at step {stop.step}"
            print(f"{saved}. To go on: {again}", file=sys.stderr)
        return 128 + stop.signum
    if finished is None:
        return 0  # the first process speaks for all
    print_finished(finished)
    _write_json(json_path, {"workdir": finished.workdir, "step": finished.step, **finished.metrics})
    return 0


def _check(argv: list[str], json_path: str | None, prog: str) -> int:
    run = _load(argv, prog)
    from vljax.report import print_summary, summarise
    from vljax.run import check_trains, prepare

    if run.pretrained:  # what reads weights takes long to import
        from vljax.interop import pretrained

        run = pretrained.pinned(run)
    prepared = prepare(run)
    check_trains(prepared)
    if run.pretrained:
        pretrained.check(prepared)
    summary = summarise(prepared)
    if json_path != "-":
        print_summary(argv[0], summary)
    _write_json(json_path, summary)
    return 0


def _compile(argv: list[str], json_path: str | None, prog: str) -> int:
    """Status 1 if the step does not fit the devices."""
    from vljax.analysis.topologies import quiet_environment, topology

    name, argv = _take("--topology", "a name, such as v5e:4x4 or h100:8", argv)
    if name is None and "--help" not in argv:
        raise UserError(f"add --topology, such as: {prog} {argv[0]} --topology v5e:4x4")
    target = topology(name or "v5e:4x4")
    quiet_environment(os.environ)
    run = _load(argv, prog)
    from vljax.analysis.proposals import compile_or_propose
    from vljax.report import print_compiled

    report = compile_or_propose(run, target, lambda line: print(line, file=sys.stderr, flush=True))
    if json_path != "-":
        print_compiled(argv[0], report)
    _write_json(json_path, report.as_dict())
    return 0 if report.fits else 1


def _data(argv: list[str], prog: str) -> int:
    from vljax.commands import data as data_commands

    json_path, rest = _take_json(argv)
    result = data_commands.main(rest, prog, tables_to_stderr=json_path == "-")
    _write_json(json_path, result)
    return 0


def _import_or_export(
    name: str, parser: argparse.ArgumentParser, argv: list[str], prog: str
) -> int:
    asked, rest = parser.parse_known_args(argv)
    recipe = None if name == "export" else asked.recipe
    if recipe is None:
        asked = parser.parse_args(argv)  # which names what is unknown
    # Models are only read and written; an accelerator would have to be started first.
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    from vljax.interop.convert import export_model, import_model
    from vljax.progress import shown
    from vljax.report.converted import print_converted

    with shown(name, "{:,} of {:,} bytes", "bytes") as report:
        if name == "import":
            done = import_model(
                asked.source,
                asked.out,
                recipe=None if recipe is None else _load([recipe, *rest], f"{prog} {name}"),
                overwrite=asked.overwrite,
                report=report,
            )
        else:
            done = export_model(
                asked.source,
                asked.out,
                asked.format,
                dtype=asked.dtype,
                quantize=asked.quantize,
                accept=asked.accept,
                vocabulary=asked.tokenizer,
                overwrite=asked.overwrite,
                report=report,
            )
    if asked.json != "-":
        print_converted(done)
    _write_json(asked.json, done.as_dict())
    return 0


def _verify(asked: argparse.Namespace, prog: str) -> int:
    """Status 1 if a number differs from the published one by more than the tolerance."""
    result = verify.run(asked, prog)
    _write_json(asked.json, result)
    return 0 if result["agrees"] else 1


def _load(argv: list[str], prog: str) -> Run:
    """The run that a recipe and the overrides behind it describe."""
    import dataclasses

    from vljax.overrides import override
    from vljax.run import Run

    spec, *overrides = argv
    run = override(config.load(spec, Run), overrides, f"{prog} {spec}", _RESULT)
    if run.workdir is None:
        file, _, variant = spec.partition(":")
        name = Path(file).stem + (f"-{variant}" if variant else "")
        run = dataclasses.replace(run, workdir=f"runs/{name}")
    return run


def _take_json(argv: list[str]) -> tuple[str | None, list[str]]:
    return _take("--json", "a path, or - for standard output", argv)


def _take(wanted: str, what: str, argv: list[str]) -> tuple[str | None, list[str]]:
    """The value of an option, wherever it stands, and the other arguments."""
    value, rest = None, list[str]()
    arguments = iter(argv)
    for argument in arguments:
        flag, equals, inline = argument.partition("=")
        if flag != wanted:
            rest.append(argument)
            continue
        value = inline if equals else next(arguments, "")
        if not value or value.startswith("--"):
            raise UserError(f"{wanted} needs {what}")
    return value, rest


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
