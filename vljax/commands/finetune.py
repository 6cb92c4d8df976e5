"""`vljax finetune PATH --data SOURCE`: a recipe made from a model itself, and its training.

Importing this file is cheap.
"""

from __future__ import annotations

import argparse
import dataclasses
import math
import os
import sys
from typing import TYPE_CHECKING, Any

from vljax.commands import recipe_arguments
from vljax.commands.recipe_arguments import take_option
from vljax.config import UserError

if TYPE_CHECKING:
    from vljax.data.records import Source
    from vljax.interop.initial import SourceModel
    from vljax.run import Run

NAME = "finetune"
RECIPE = "recipe.json"
_BATCH, _EPOCHS = 64, 5

_DESCRIPTION = f"""\
Trains the model at PATH further: a checkpoint or workdir of vljax, a folder that `vljax export`
wrote as safetensors or npz, or a folder of other software that `vljax import` reads. The recipe is
made from the model: towers, tokenizer, preprocessing, objective, temperature. It is written to
WORKDIR/{RECIPE}, to be edited and run again: vljax train WORKDIR/{RECIPE} --workdir NEW.

SOURCE is a path or TYPE:PATH, as for `vljax data inspect`; its fields are --data.source.FIELD.
Every field of the recipe can be set: --optim.learning_rate 3e-6, --optim.layer_decay 0.75,
--optim.frozen 'text/.*'. `vljax finetune PATH --help` lists them."""


def add(commands: Any) -> None:
    """Adds the command to a parser's sub-commands."""
    command = commands.add_parser(
        NAME,
        help="train an existing model further on other data, without a recipe",
        description=_DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        usage=f"vljax {NAME} PATH --data SOURCE [--validation SOURCE] [--workdir WORKDIR]"
        " [--epochs N] [--json PATH] [--FIELD VALUE ...]",
    )
    command.add_argument("path", metavar="PATH", help="the model")
    command.add_argument("--data", metavar="SOURCE", help="the training examples")
    command.add_argument(
        "--validation",
        metavar="SOURCE",
        help="examples to evaluate on, before the first step, on the way, and at the end",
    )
    command.add_argument(
        "--workdir", metavar="WORKDIR", help="folder of the run; runs/finetune-NAME if unset"
    )
    command.add_argument(
        "--epochs",
        metavar="N",
        help=f"passes over the data if --steps is unset; {_EPOCHS} if unset",
    )
    command.add_argument(
        "--json", metavar="PATH", help="write the result as JSON too; - for standard output"
    )


def run(argv: list[str], json_path: str | None, prog: str) -> int:
    """Runs the command; returns the exit status as `vljax train` does.

    Args:
      argv: the model, then options and `--FIELD VALUE ...`.
      json_path: where to write the result as JSON.
      prog: the command, for messages.

    Raises:
      UserError: for a model that cannot be trained, or a bad data set, option or workdir.
    """
    from vljax.host_process import keep_freed_memory

    keep_freed_memory()  # before NumPy and JAX start threads
    from vljax.commands.train import train_recipe

    recipe, file = make(argv, prog)
    return train_recipe(recipe, ["vljax", "train", file], json_path)


def make(argv: list[str], prog: str) -> tuple[Run, str]:
    """Makes the recipe, writes it with its tokenizers into the workdir, and prints it.

    Returns:
      The recipe, and the file that holds it.

    Raises:
      UserError: as `run` does.
    """
    from vljax.interop import initial, pretrained
    from vljax.overrides import override
    from vljax.workdir import check_recipe

    path, *rest = argv
    path = path if "://" in path else os.path.abspath(os.path.expanduser(path))
    source_words = "a data set: PATH or TYPE:PATH"
    data, rest = take_option("--data", source_words, rest)
    validation, rest = take_option("--validation", source_words, rest)
    epochs, rest = take_option("--epochs", "a number", rest)
    steps, rest = take_option("--steps", "a number", rest)
    batch, rest = take_option("--global_batch", "a number", rest)
    name = os.path.basename(path.rstrip("/"))
    workdir, rest = take_option("--workdir", "a folder", rest)
    workdir = workdir or f"runs/finetune-{name}"
    workdir = workdir if "://" in workdir else os.path.abspath(os.path.expanduser(workdir))
    if data is None and "--help" not in rest:
        raise UserError(f"--data: name the training examples: {prog} PATH --data SOURCE")

    model = initial.read_source(path, "PATH")
    made = initial.finetuning_run(model, path, _source(data or "jsonl", "--data"), workdir)
    if validation is not None:
        made = dataclasses.replace(made, evaluators=_evaluators(made, validation))
    rest = recipe_arguments.expanded(rest)
    # The source may need fields before its examples can be counted.
    source = override(made, rest, f"{prog} {argv[0]}").data.source
    count = len(_opened(source)) if steps is None or batch is None else 0
    size = _number("--global_batch", batch) or 2 ** int(math.log2(min(_BATCH, count)))
    length = _number("--steps", steps)
    if length is None:
        length = max(1, math.ceil((_number("--epochs", epochs) or _EPOCHS) * count / size))
    elif epochs is not None:
        raise UserError("--epochs and --steps: set one of them")
    # Fields on the command line win over what follows from the length.
    made = override(_cadences(made, length, size), rest, f"{prog} {argv[0]}")
    made = dataclasses.replace(made, workdir=workdir)
    file = _write(initial.pinned(pretrained.pinned(made)), model, workdir, check_recipe)
    _print(made, model, count, file)
    return made, file


def _source(word: str, option: str) -> Source:
    from vljax.config import decode, encode
    from vljax.data import records
    from vljax.data_tools.source_arguments import parse_sources

    try:
        (source,) = parse_sources([word], f"vljax {NAME}")
    except UserError as error:
        raise UserError(f"{option}: {error}") from None
    found: Source = source
    where = getattr(found, "path", None)
    if isinstance(where, str) and "://" not in where:
        # The recipe may be run from another folder.
        absolute = os.path.abspath(os.path.expanduser(where))
        found = decode(records.Source, {**encode(found), "path": absolute})
    return found


def _evaluators(run: Run, validation: str) -> dict[str, Any]:
    """What measures a model of this kind: retrieval, or the accuracy of answers."""
    from vljax.evaluation import Questions, Retrieval
    from vljax.objectives.contrastive import Contrastive

    source = _source(validation, "--validation")
    contrastive = [o for o in run.objectives.values() if isinstance(o, Contrastive)]
    if contrastive:
        return {"retrieval": Retrieval(source, similarity=contrastive[0].similarity)}
    if run.question_answering() is not None:
        return {"questions": Questions(source)}
    raise UserError(
        "--validation: the model is neither contrastive nor answers questions; leave it out"
    )


def _opened(source: Source) -> Any:
    from vljax.data.records import error_for_field

    try:
        records = source.open()
    except UserError as error:
        raise error_for_field(error, "data.source") from error
    if len(records) == 0:
        raise UserError(f"--data: {source.full_name} has no examples")
    return records


def _number(option: str, word: str | None) -> int | None:
    if word is None:
        return None
    if not word.isdecimal() or int(word) < 1:
        raise UserError(f"{option}: must be a whole number of 1 or more, not {word!r}")
    return int(word)


def _cadences(run: Run, steps: int, batch: int) -> Run:
    """The run with what follows from its length: a warm-up of a tenth, and when to evaluate."""
    from vljax.optim.schedules import WarmupCosine

    return dataclasses.replace(
        run,
        optim=dataclasses.replace(run.optim, schedule=WarmupCosine(warmup_steps=steps // 10)),
        steps=steps,
        global_batch=batch,
        log_every=max(1, min(50, steps // 20)),
        evaluate_every=max(1, min(1000, steps // 5)),
        checkpoint_every=max(1, min(1000, steps // 5)),
    )


def _write(run: Run, model: SourceModel, workdir: str, check_recipe: Any) -> str:
    """Writes the recipe and its tokenizers, unless the workdir holds another run."""
    from vljax.config import to_json
    from vljax.files import join
    from vljax.interop.initial import tokenizer_files
    from vljax.training.checkpoint import storage

    check_recipe(workdir, run)
    folder, recipe = storage.absolute(workdir), to_json(run).encode()
    try:
        there = (folder / RECIPE).read_bytes()
    except OSError:
        there = recipe
    if there != recipe:
        kept = join(workdir, RECIPE)
        raise UserError(
            f"{kept} is another recipe, perhaps edited: train it with `vljax train {kept}`, name"
            " another --workdir, or remove it"
        )
    try:
        for name, content in {**tokenizer_files(model), RECIPE: recipe}.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            storage.write(folder / name, content)
    except OSError as error:
        raise UserError(
            f"--workdir: {workdir} cannot be written ({storage.describe(error)})"
        ) from error
    return join(workdir, RECIPE)


def _print(run: Run, model: SourceModel, count: int, file: str) -> None:
    """The recipe in a few lines."""
    nodes = (f"{name} ({node.type_name})" for name, node in run.model.nodes.items())
    transforms = (transform.type_name for transform in run.data.train_transforms)
    optim, examples = run.optim, f" ({count:,} examples)" if count else ""
    rows = {
        "model": f"{', '.join(nodes)}, from {model.title}",
        "tokenizer": ", ".join(t.type_name for t in run.data.tokenizers.values()),
        "data": f"{run.data.source.full_name}{examples}: {', '.join(transforms)}",
        "objective": ", ".join(o.type_name for o in run.objectives.values()),
        "optimizer": f"{optim.type_name}, learning rate {optim.learning_rate:g}, layer decay"
        f" {optim.layer_decay:g}, frozen: {', '.join(optim.frozen) or 'nothing'}",
        "length": f"{run.steps:,} steps of {run.global_batch:,} examples",
        "evaluators": ", ".join(run.evaluators) or "none; --validation SOURCE adds one",
        "recipe": file,
    }
    for name, value in rows.items():
        print(f"{name:10} {value}", file=sys.stderr)
