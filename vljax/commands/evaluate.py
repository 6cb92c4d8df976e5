"""`vljax eval`: its arguments, and the table that it prints. Importing this file is cheap."""

from __future__ import annotations

import argparse
import os
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vljax.config import UserError, suggest

if TYPE_CHECKING:
    from vljax.data.records import Source
    from vljax.evaluation.metrics.uncertainty import Interval
    from vljax.inference import EvaluationTask, Loaded
    from vljax.scores import Score

NAME = "eval"
_SOURCES = ("data", "train")
_OPTIONS = (*_SOURCES, "tasks")
"""The options with fields: those that name a source, such as `--data.label kind`, and the tasks,
such as `--tasks.knn.k 5`."""

_ABOUT = """\
Measures models. MODEL is a checkpoint, a workdir (its newest intact checkpoint), an exported
folder, or a folder of other software that `vljax import` reads. Several are measured on the same
data.

Without --data, the evaluators of the recipe are measured, as at the end of training; --tasks keeps
those whose names begin so, such as zero_shot or retrieval/builtin/test. With --data, tasks are

  retrieval   image to text and text to image; needs captions
  zero_shot   classification by prompts; needs classes
  questions   accuracy of answers; needs questions, and a model that answers
  linear_probe, knn, few_shot
              classification by the features of the image tower; need classes, and training
              examples with classes: --train SOURCE

Fields of their evaluators are options too: --tasks.knn.k 5 --tasks.few_shot.shots 1 10.

Published sets are tasks by name, such as imagenet, coco or winoground, each with its own prompts
and class names: --tasks imagenet,coco --data-root DIR reads DIR/imagenet and DIR/coco, --data
imagenet=PATH another folder. --suites lists them, with the files that each needs.

Beside each metric of single examples stands its 95 % bootstrap interval; captions and questions
about the same image are drawn together. --compare prints how much better each other model is than
the first, with the interval of the difference over the same examples.

With --out, finished tasks and the outputs of finished batches are kept: after an interruption, the
same command goes on where it was, and tasks that are there already are not measured again."""


def add(commands: Any) -> None:
    """Adds the command to a parser's sub-commands."""
    command = commands.add_parser(
        NAME,
        help="measure a trained model, with intervals; compare models",
        description=_ABOUT,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    command.add_argument("models", metavar="MODEL", nargs="+", help="such as runs/quickstart")
    command.add_argument(
        "--tasks",
        type=_names,
        default=[],
        metavar="TASK[,TASK...]",
        help="what to measure; by default all evaluators of the recipe",
    )
    command.add_argument(
        "--data",
        action="append",
        default=[],
        metavar="SOURCE",
        help="PATH or TYPE:PATH, as for `vljax data inspect`, whose fields come last:"
        " --data.captions title; by default the data of the recipe. SUITE=PATH: the folder of a"
        " published set, once for each",
    )
    command.add_argument(
        "--data-root", metavar="DIR", help="folder with the folders of published sets, by name"
    )
    command.add_argument(
        "--suites", action=_ListSuites, nargs=0, help="list the published sets, and stop"
    )
    command.add_argument(
        "--train",
        metavar="SOURCE",
        help="training examples for linear_probe, knn and few_shot, as --data, with fields such as"
        " --train.label kind",
    )
    command.add_argument(
        "--classes",
        metavar="FILE",
        help="class names for zero_shot, a line each, in place of those of the data",
    )
    command.add_argument(
        "--templates", metavar="FILE", help="prompts for zero_shot, a line each, with {} or {c}"
    )
    command.add_argument("--compare", action="store_true", help="print differences of the models")
    command.add_argument(
        "--batch-size",
        type=int,
        metavar="N",
        help="images or texts encoded at a time; it changes results by rounding at most",
    )
    command.add_argument("--out", metavar="DIR", help="folder to keep results in, see above")
    command.add_argument(
        "--clip-benchmark",
        metavar="DIR",
        help="write retrieval and zero_shot as CLIP_benchmark does too, a JSON file each",
    )
    command.add_argument(
        "--json", metavar="PATH", help="write the result as JSON too; - for standard output"
    )


class _ListSuites(argparse.Action):
    def __call__(self, parser: argparse.ArgumentParser, *unused: Any) -> None:
        from vljax.evaluation.suites import listing  # imports JAX

        print(listing())
        parser.exit()


def _names(word: str) -> list[str]:
    return [name for name in word.split(",") if name]


def split(argv: list[str]) -> tuple[dict[str, list[str]], list[str]]:
    """The fields of `data`, `train` and `tasks`, and all other arguments.

    `--data.FIELD VALUE ...` is there as `--FIELD VALUE ...`, and `--tasks.knn.k 5` as `--knn.k 5`.
    """
    fields = {option: list[str]() for option in _OPTIONS}
    if not any(word.startswith(f"--{option}.") for word in argv for option in _OPTIONS):
        return fields, argv
    from vljax.data_tools.source_arguments import split_fields  # imports JAX

    for option in _OPTIONS:
        fields[option], argv = split_fields(argv, option)
    return fields, argv


def run(asked: argparse.Namespace, fields: Mapping[str, list[str]]) -> dict[str, Any]:
    """Measures, prints tables, and returns the result as JSON data.

    Args:
      asked: the arguments.
      fields: `--FIELD VALUE ...` of `--data`, `--train` and `--tasks`.

    Raises:
      UserError: for bad input.
    """
    word, folders = _data(asked)
    _check(asked, word, folders, fields)
    # These modules import JAX.
    from vljax import scores
    from vljax.inference import load
    from vljax.progress import shown

    words = {"data": word, "train": asked.train}
    sources = {option: _source(option, words[option], fields[option]) for option in _SOURCES}
    settings = _settings(fields["tasks"], asked.tasks)
    labels = _labels(asked.models)
    found: dict[str, list[Score]] = {}
    for path, label in zip(asked.models, labels, strict=True):
        model = load(path)
        tasks = _tasks(model, asked, folders, settings, **sources)
        if asked.compare and found:
            _check_same_tasks(labels[0], found[labels[0]], label, tasks)
        folder = None
        if asked.out is not None:
            folder = asked.out if len(labels) == 1 else os.path.join(asked.out, label)
        try:
            with shown(label, "computed {:,} of {:,} images and texts") as report:
                found[label] = scores.measure(model, tasks, report, path=path, folder=folder)
        except KeyboardInterrupt:
            kept = "nothing is kept without --out DIR"
            if asked.out is not None:
                kept = f"the same command goes on from {asked.out}"
            print(kept, file=sys.stderr)
            raise
    first, *others = labels
    compared = {
        label: [scores.compare(*pair) for pair in zip(found[first], found[label], strict=True)]
        for label in (others if asked.compare else ())
    }
    if asked.json != "-":
        for label in labels:
            _print(label, found[label])
        for label, changes in compared.items():
            _print_comparison(first, label, found[first], changes)
    if asked.clip_benchmark is not None:
        _write_clip_benchmark(asked.clip_benchmark, found)
    result: dict[str, Any] = {
        "models": [
            {"model": path, "tasks": [score.as_json() for score in found[label]]}
            for path, label in zip(asked.models, labels, strict=True)
        ]
    }
    if asked.compare:
        result["differences"] = [
            {
                "first": asked.models[0],
                "second": asked.models[labels.index(label)],
                "tasks": [
                    {"task": score.task, "metrics": {n: c._asdict() for n, c in each.items()}}
                    for score, each in zip(found[first], changes, strict=True)
                ],
            }
            for label, changes in compared.items()
        ]
    return result


def _data(asked: argparse.Namespace) -> tuple[str | None, dict[str, str]]:
    """The source that `--data` names, if any, and the folders of published sets by name.

    `asked.tasks` becomes the published sets of `--data`, if it is empty.
    """
    if not asked.data and asked.data_root is None:
        return None, {}
    from vljax.evaluation.suites import SUITES  # imports JAX

    folders, words = dict[str, str](), list[str]()
    for word in asked.data:
        name, equals, path = word.partition("=")
        if name in SUITES and equals:
            folders[name] = path
        elif equals and re.fullmatch(r"[\w-]+", name) and not os.path.exists(word):
            raise UserError(f"--data: {word}: unknown suite {name!r}{suggest(name, SUITES)}")
        else:
            words.append(word)
    if len(words) > 1:
        raise UserError(f"--data: {words[1]}: only one source can be measured at a time")
    asked.tasks = asked.tasks or [*folders]
    for name in folders:
        if name not in asked.tasks:
            raise UserError(f"--data: {name}={folders[name]}: add {name} to --tasks")
    wanted = [name for name in asked.tasks if name in SUITES and name not in folders]
    if asked.data_root is not None:
        if not wanted:
            raise UserError(
                f"--data-root: --tasks names no set in it; choose from {', '.join(SUITES)}"
            )
        folders |= {name: os.path.join(asked.data_root, name) for name in wanted}
    elif len(wanted) == len(asked.tasks) == 1 and words:
        folders[wanted[0]] = words.pop()
    elif wanted:
        raise UserError(f"--tasks: {_name_folder(wanted[0])}")
    return (words[0] if words else None), folders


def _name_folder(name: str) -> str:
    return f"{name}: name its folder: --data {name}=PATH, or --data-root DIR for DIR/{name}"


def _check(
    asked: argparse.Namespace,
    word: str | None,
    folders: Mapping[str, str],
    fields: Mapping[str, list[str]],
) -> None:
    if fields["tasks"] and word is None:
        own = "published sets have their" if folders else "the recipe states its"
        raise UserError(f"--tasks.{fields['tasks'][0][2:]}: needs --data; {own} own")
    for option, given in (("data", word), ("train", asked.train)):
        if fields[option] and given is None:
            raise UserError(f"--{option}.{fields[option][0][2:]}: needs --{option}")
    if word is None:
        for option in ("train", "classes", "templates"):
            if getattr(asked, option) is not None:
                own = "published sets have their" if folders else "the recipe states its"
                raise UserError(f"--{option}: needs --data; {own} own")
    elif not asked.tasks:
        raise UserError(
            "--tasks: name what to measure on --data: retrieval, zero_shot, questions,"
            " linear_probe, knn, few_shot"
        )
    if asked.batch_size is not None and asked.batch_size < 1:
        raise UserError(f"--batch-size: must be at least 1, got {asked.batch_size}")
    if asked.compare and len(asked.models) < 2:
        raise UserError("--compare: name at least two models")
    if asked.json not in (None, "-"):
        folder = os.path.dirname(asked.json) or "."
        if os.path.isdir(asked.json) or not os.path.isdir(folder):
            raise UserError(f"--json: {asked.json} must be a file in a folder that exists")
        if not os.access(folder, os.W_OK):
            raise UserError(f"--json: {folder} cannot be written; name a file in another folder")
    for option in ("out", "clip_benchmark"):
        folder = getattr(asked, option)
        if folder is not None and ("://" in folder or os.path.isfile(folder)):
            flag = f"--{option.replace('_', '-')}"
            raise UserError(f"{flag}: {folder} must be a local folder")
    if (folder := asked.clip_benchmark) is not None:
        try:
            os.makedirs(folder, exist_ok=True)
        except OSError as error:
            raise UserError(f"--clip-benchmark: {folder} ({error.strerror})") from error


def _check_same_tasks(
    first: str, found: Sequence[Score], second: str, tasks: Sequence[EvaluationTask]
) -> None:
    """Raises UserError unless a model is about to be measured by the tasks of the first."""
    names = [[score.task for score in found], [task.name for task in tasks]]
    if names[0] != names[1]:
        raise UserError(
            f"--compare: the recipe of {first} measures {', '.join(names[0])}, but that of {second}"
            f" {', '.join(names[1])}; name common --tasks, or --data and --tasks"
        )


def _tasks(
    model: Loaded,
    asked: argparse.Namespace,
    folders: Mapping[str, str],
    settings: Mapping[str, Mapping[str, Any]],
    data: Source | None,
    train: Source | None,
) -> list[EvaluationTask]:
    from vljax.data.records import error_for_field
    from vljax.evaluation.suites import SUITES
    from vljax.files import read_names
    from vljax.inference import TEMPLATES

    prompts = None if asked.templates is None else read_names(asked.templates, "--templates")
    names = None if asked.classes is None else read_names(asked.classes, "--classes")
    size = asked.batch_size or 64
    others = [name for name in asked.tasks if name not in folders]
    made: list[EvaluationTask] = []
    try:
        for name, folder in folders.items():
            made += model.tasks(folder, name, batch_size=size)
        if data is None:
            if others or not folders:
                made += model.recipe_tasks(others, batch_size=asked.batch_size)
            return made
        return made + model.tasks(
            data,
            others,
            train=train,
            class_names=names,
            templates=TEMPLATES if prompts is None else [p.replace("{c}", "{}") for p in prompts],
            batch_size=size,
            settings=settings,
        )
    except UserError as error:
        if data is None and (wanted := [name for name in others if name in SUITES]):
            raise UserError(f"--tasks: {error}; {_name_folder(wanted[0])}") from error
        # The fields of the Python API, as the options that they come from.
        option = {"class_names": "--classes", "tasks": "--tasks"}
        field, _, message = str(error).partition(": ")
        if field.startswith("data.source."):
            raise error_for_field(error, "--data") from error
        if field.startswith("settings."):
            raise UserError(f"--tasks{str(error).removeprefix('settings')}") from error
        if re.fullmatch(r"train(\.\w+)*", field):
            raise UserError(f"--{error}") from error
        if re.fullmatch(r"templates(\.\d+)?", field):
            raise UserError(f"--templates: {asked.templates}: {message}") from error
        raise (UserError(f"{option[field]}: {message}") if field in option else error) from error


def _settings(fields: Sequence[str], tasks: Sequence[str]) -> dict[str, dict[str, Any]]:
    """The fields of evaluators by task, from `--TASK.FIELD VALUE ...`.

    >>> _settings(["--knn.k", "5", "--few_shot.shots", "1", "10"], ["knn", "few_shot"])
    {'knn': {'k': 5}, 'few_shot': {'shots': (1, 10)}}
    """
    from vljax.data_tools.source_arguments import split_fields
    from vljax.datasets import Builtin
    from vljax.inference import EVALUATORS, PROBES, settable_fields
    from vljax.overrides import override

    left, found = list(fields), dict[str, dict[str, Any]]()
    for task in tasks:
        words, left = split_fields(left, task)
        if not words or task not in EVALUATORS:
            left = [f"--{task}.{words[0][2:]}", *left] if words else left
            continue
        names = [word[2:].partition("=")[0].replace("-", "_") for word in words if word[:2] == "--"]
        names = list(dict.fromkeys(name.partition(".")[0] for name in names))
        known = settable_fields(task)
        for name in names:
            if name not in known:
                raise UserError(f"--tasks.{task}: unknown field {name!r}{suggest(name, known)}")
        # The sources are those of --data and --train, and play no part in the settings.
        train = {"train": Builtin("train")} if task in PROBES else {}
        base = EVALUATORS[task](Builtin("test"), **train)  # type: ignore[arg-type]
        try:
            made = override(base, words, f"vljax {NAME} --tasks.{task}")
        except UserError as error:
            raise UserError(f"--tasks.{task}: {error}") from error
        found[task] = {name: getattr(made, name) for name in names}
    if left:
        name, _, field = left[0].removeprefix("--").partition(".")
        if name in EVALUATORS and field:
            raise UserError(f"--tasks.{name}.{field}: {name} is not among --tasks; name it there")
        remedy = f"write --tasks.TASK.FIELD, where TASK is one of {', '.join(EVALUATORS)}"
        raise UserError(f"--tasks.{left[0][2:]}: {remedy}")
    return found


def _source(option: str, word: str | None, fields: list[str]) -> Source | None:
    """The source of `--data` or `--train`. Raises UserError if there is no such one."""
    from vljax.data_tools.source_arguments import parse_sources

    if word is None:
        return None
    try:
        (source,) = parse_sources([word, *fields], f"vljax {NAME} --{option}")
    except UserError as error:
        raise UserError(f"--{option}: {error}") from error
    found: Source = source
    return found


def _labels(paths: Sequence[str]) -> list[str]:
    """Short names of models that differ: the last parts of their paths."""
    whole = [os.path.normpath(p) if "://" in p else os.path.abspath(p) for p in paths]
    if len(set(whole)) < len(paths):
        raise UserError(f"{' '.join(paths)}: a model is named twice")
    parts = [Path(path).parts for path in whole]
    for count in range(1, max(map(len, parts)) + 1):
        labels = ["-".join(each[-count:]).strip("/-") or "model" for each in parts]
        if len(set(labels)) == len(labels):
            return labels
    return list(paths)


def _print(label: str, found: Sequence[Score]) -> None:
    from rich.console import Console
    from rich.table import Table

    from vljax.commands.output import cell

    console = Console(emoji=False)
    for score in found:
        table = Table(title=cell(f"{label}: {_title(score)}"), title_justify="left")
        table.add_column("metric")
        table.add_column("value", justify="right")
        table.add_column("95 % interval", justify="right")
        intervals = score.intervals
        for name, value in score.metrics.items():
            each = intervals.get(name)
            shown = "" if each is None else f"{_number(each.low)} to {_number(each.high)}"
            table.add_row(cell(name), _number(value), shown)
        console.print(table)


def _print_comparison(
    first: str, second: str, found: Sequence[Score], changes: Sequence[Mapping[str, Interval]]
) -> None:
    from rich.console import Console
    from rich.table import Table

    from vljax.commands.output import cell

    console = Console(emoji=False)
    for score, each in zip(found, changes, strict=True):
        title = cell(f"{second} minus {first}: {_title(score)}")
        table = Table(title=title, title_justify="left")
        table.add_column("metric")
        table.add_column("difference", justify="right")
        table.add_column("95 % interval", justify="right")
        table.add_column("")
        for name, change in each.items():
            sure = "" if change.low <= 0 <= change.high else "differs"
            shown = f"{_number(change.low, '+')} to {_number(change.high, '+')}"
            table.add_row(cell(name), _number(change.mean, "+"), shown, sure)
        console.print(table)


def _number(value: float, sign: str = "") -> str:
    """Four digits, but those before the point in full."""
    return f"{value:{sign}.4g}" if abs(value) < 1_000 else f"{value:{sign}.0f}"


def _title(score: Score) -> str:
    return score.task if score.task.endswith(score.dataset) else f"{score.task}, {score.dataset}"


def _write_clip_benchmark(folder: str, found: Mapping[str, Sequence[Score]]) -> None:
    import json

    from vljax.scores import clip_benchmark

    try:
        for label, every in found.items():
            for score in every:
                if (data := clip_benchmark(score, label)) is None:
                    continue
                name = re.sub(r"[^\w.+-]+", "_", f"{score.dataset}_{label}_{data['task']}")
                with open(os.path.join(folder, f"{name}.json"), "w") as file:
                    file.write(json.dumps(data, allow_nan=False) + "\n")
    except OSError as error:
        raise UserError(f"--clip-benchmark: {folder} ({error.strerror})") from error
