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
from vljax.commands.recipe_arguments import number, take_image_size, take_option
from vljax.config import UserError

if TYPE_CHECKING:
    from vljax.data.records import Source
    from vljax.interop.initial import SourceModel
    from vljax.run import Run

NAME = "finetune"
RECIPE = "recipe.json"
_BATCH, _EPOCHS = 64, 5
_LORA_RATE = 1e-4  # ten times the rate of whole kernels, as is usual

_DESCRIPTION = f"""\
Trains the model at PATH further: a checkpoint or workdir of vljax, a folder that `vljax export`
wrote as safetensors or npz, or a folder of other software that `vljax import` reads. The recipe is
made from the model: towers, tokenizer, preprocessing, objective, temperature. It is written to
WORKDIR/{RECIPE}, to be edited and run again: vljax train WORKDIR/{RECIPE} --workdir NEW.
It trains in one process; for several, write the recipe with --recipe_only, and start
vljax train WORKDIR/{RECIPE} in each.

--lora RANK trains low-rank factors of the kernels in the blocks of all transformers in place of the
model (Hu et al. 2021), with a learning rate of 1e-4. --probe_steps N trains the projections and the
temperature alone for N steps, then everything (Kumar et al. 2022). --guard SOURCE evaluates on old
data too, and prints the change since the start; with --guard_drop POINTS, the run is saved and ends
if a metric falls by more.

SOURCE is a path or TYPE:PATH, as for `vljax data inspect`; its fields are --data.source.FIELD.
--image_size 336 sets the size of images in the model and in all transforms, and resizes learned
positions.
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
        " [--epochs N] [--image_size N] [--lora RANK] [--probe_steps N] [--guard SOURCE]"
        " [--recipe_only] [--json PATH] [--FIELD VALUE ...]",
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
        "--image_size", metavar="N", help="height and width of images; the model's if unset"
    )
    command.add_argument(
        "--lora", metavar="RANK", help="train low-rank factors of the kernels in transformer blocks"
    )
    command.add_argument(
        "--probe_steps",
        metavar="N",
        help="train all but the towers alone for N steps, then everything",
    )
    command.add_argument(
        "--guard",
        metavar="SOURCE",
        help="old data to evaluate on too: by zero-shot classification if it has classes",
    )
    command.add_argument(
        "--recipe_only", action="store_true", help="write the recipe, and do not train"
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
    from vljax.commands.output import write_json
    from vljax.host_process import keep_freed_memory

    if only := "--recipe_only" in argv:
        # No accelerator is needed; one of a larger job would wait for the other processes.
        os.environ.setdefault("JAX_PLATFORMS", "cpu")
    keep_freed_memory()  # before NumPy and JAX start threads
    from vljax.commands.train import train_recipe

    recipe, file = make(argv, prog)
    if only:
        write_json(json_path, {"recipe": file, "steps": recipe.steps})
        return 0
    return train_recipe(recipe, ["vljax", "train", file], json_path)


def make(argv: list[str], prog: str) -> tuple[Run, str]:
    """Makes the recipe, writes it with its tokenizers into the workdir, and prints it.

    Returns:
      The recipe, and the file that holds it.

    Raises:
      UserError: as `run` does.
    """
    from vljax.config import with_paths
    from vljax.interop import initial, pretrained
    from vljax.overrides import override
    from vljax.run import with_image_size

    path, *rest = argv
    path = _absolute(path)
    recipe_only, helping = "--recipe_only" in rest, not {"--help", "-h"}.isdisjoint(rest)
    rest = [word for word in rest if word != "--recipe_only"]
    source_words = "a data set: PATH or TYPE:PATH"
    data, rest = take_option("--data", source_words, rest)
    validation, rest = take_option("--validation", source_words, rest)
    epochs, rest = take_option("--epochs", "a number", rest)
    steps, rest = take_option("--steps", "a number", rest)
    batch, rest = take_option("--global_batch", "a number", rest)
    lora, rest = take_option("--lora", "a rank", rest)
    probe, rest = take_option("--probe_steps", "a number", rest)
    old, rest = take_option("--guard", source_words, rest)
    name = os.path.basename(path.rstrip("/"))
    workdir, rest = take_option("--workdir", "a folder", rest)
    workdir = _absolute(workdir or f"runs/finetune-{name}")
    pixels, rest = take_image_size(rest)
    rest = recipe_arguments.expanded(rest)
    if not helping:
        if data is None:
            raise UserError(f"--data: name the training examples: {prog} PATH --data SOURCE")
        if not recipe_only:
            _check_one_process(rest, f"{prog} {argv[0]}", workdir)
        _check_apart(workdir, path)

    model = initial.read_source(path, "PATH")
    made = initial.finetuning_run(model, path, _source(data or "jsonl", "--data"), workdir)
    made = _with_options(made, number("--lora", lora), number("--probe_steps", probe))
    given = None if validation is None else _source(validation, "--validation")
    guard = None if old is None else _source(old, "--guard")
    made = _with_evaluators(made, given, guard)
    # The sources may need fields before they can be opened.
    source = override(made, rest, f"{prog} {argv[0]}").data.source
    if given is not None or guard is not None:
        given, guard = (each if each is None else _like(each, source) for each in (given, guard))
        made = _with_evaluators(made, given, guard)
        if guard is not None:
            # With its fields, it may have classes.
            guard = override(made, rest, f"{prog} {argv[0]}").evaluators["guard"].source
            made = _with_evaluators(made, given, guard)
    count = len(_opened(source)) if steps is None or batch is None else 0
    size = number("--global_batch", batch) or 2 ** int(math.log2(min(_BATCH, count)))
    length = number("--steps", steps)
    if length is None:
        length = max(1, math.ceil((number("--epochs", epochs) or _EPOCHS) * count / size))
    elif epochs is not None:
        raise UserError("--epochs and --steps: set one of them")
    if (first := number("--probe_steps", probe)) is not None and first >= length:
        raise UserError(f"--probe_steps: {first} is not less than the {length} steps of the run")
    # Fields on the command line win over what follows from the length.
    made = override(_cadences(made, length, size, first or 0), rest, f"{prog} {argv[0]}")
    if pixels is not None:
        made = with_image_size(made, pixels)
    # The recipe may be run from another folder.
    made = dataclasses.replace(with_paths(made, _absolute), workdir=workdir)
    read = model if made.init.path == path else None
    made = initial.pinned(pretrained.pinned(made))
    _check_workdir(made, workdir)
    report = _check_trains(made, model, read, workdir, recipe_only)
    file = _write(made, model, workdir)
    _print(made, model, count, file, pixels)
    if recipe_only:
        for line in report:
            print(line, file=sys.stderr)
    return made, file


def _absolute(path: Any) -> Any:
    """A path that is right in any folder; several, or none, as they are given."""
    if isinstance(path, tuple):
        return tuple(map(_absolute, path))
    if path is None or "://" in path:
        return path
    return os.path.abspath(os.path.expanduser(path))


def _check_one_process(fields: list[str], prog: str, workdir: str) -> None:
    """Raises UserError if this process is one of several: each would write the recipe."""
    from vljax.overrides import override
    from vljax.parallel.processes.start import DistributedConfig, locate

    prefix, own, words = "--distributed.", list[str](), iter(fields)
    for word in words:
        if word.startswith(prefix):
            own += [f"--{word.removeprefix(prefix)}", *([] if "=" in word else [next(words, "")])]
    if locate(override(DistributedConfig(), own, prog)) is not None:
        raise UserError(
            f"{NAME} trains in one process, and this is one of several: make the recipe with one"
            f" process by `{prog} ... --recipe_only`, then start `vljax train {workdir}/{RECIPE}`"
            " in each"
        )


def _check_apart(workdir: str, path: str) -> None:
    """Raises UserError if the run would write into the model's folder, or the reverse."""
    one, other = (
        f"{(p if '://' in p else os.path.realpath(p)).rstrip('/')}/" for p in (workdir, path)
    )
    if one.startswith(other) or other.startswith(one):
        raise UserError(
            f"--workdir: {workdir} is the model's folder, lies in it, or contains it ({path});"
            " name a folder apart from it"
        )


def _like(given: Source, training: Source) -> Source:
    """The validation source with the fields of a training source of its type that it leaves out."""
    if type(given) is not type(training):
        return given
    defaults: Any = type(given)()
    what = "path" if hasattr(given, "path") else "split"  # builtin:test
    own = {
        field.name: value
        for field in dataclasses.fields(given)  # type: ignore[arg-type]
        if (value := getattr(given, field.name)) != getattr(defaults, field.name)
        or field.name == what
    }
    return dataclasses.replace(training, **own)  # type: ignore[type-var]


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
    if isinstance(where, str):
        found = decode(records.Source, {**encode(found), "path": _absolute(where)})
    return found


def _evaluators(run: Run, source: Source, option: str = "--validation") -> dict[str, Any]:
    """What measures a model of this kind: retrieval, or the accuracy of answers."""
    from vljax.data.sources.expand import Expand
    from vljax.evaluation import Questions, Retrieval
    from vljax.objectives.contrastive import Contrastive

    contrastive = [o for o in run.objectives.values() if isinstance(o, Contrastive)]
    if contrastive:
        return {"retrieval": Retrieval(source, similarity=contrastive[0].similarity)}
    if (answering := run.question_answering()) is not None:
        rows = Expand(source, by="question")
        return {
            "questions": Questions(source=rows, logits=answering.logits, targets=answering.targets)
        }
    raise UserError(
        f"{option}: the model is neither contrastive nor answers questions; leave it out"
    )


def _guard(run: Run, source: Source) -> Any:
    """What measures a model on old data: zero-shot accuracy if the data have classes."""
    from vljax.evaluation import ZeroShot
    from vljax.objectives.contrastive import Contrastive

    contrastive = [o for o in run.objectives.values() if isinstance(o, Contrastive)]
    try:
        classes = source.open().class_names
    except UserError:
        classes = ()  # its fields may follow; it is opened again, and the error names them
    if contrastive and classes:
        return ZeroShot(source, similarity=contrastive[0].similarity)
    (evaluator,) = _evaluators(run, source, "--guard").values()
    return evaluator


def _with_evaluators(run: Run, validation: Source | None, old: Source | None) -> Run:
    """The run with evaluators of the data of `--validation`, and of the old data of `--guard`."""
    made = {} if validation is None else _evaluators(run, validation)
    if old is None:
        return dataclasses.replace(run, evaluators=made)
    made["guard"] = _guard(run, old)
    return dataclasses.replace(run, evaluators=made, guard="guard")


def _with_options(run: Run, rank: int | None, probe_steps: int | None) -> Run:
    """The run with low-rank factors, and with towers that are trained after some steps.

    Args:
      run: the recipe.
      rank: that of the factors; None for none.
      probe_steps: steps in which all but the towers is trained alone; None for none.
    """
    from vljax.models.layers.transformer import TransformerConfig
    from vljax.models.low_rank import LowRank
    from vljax.optim import Group

    towers = f"({'|'.join(run.model.encoders)})/.*"
    heads = f"(?!{towers}).*"
    if rank is not None:
        nodes = [n for n, node in run.model.nodes.items() if isinstance(node, TransformerConfig)]
        if not nodes:
            raise UserError("--lora: the model has no transformer; set --low_rank.kernels instead")
        blocks = f"({'|'.join(nodes)})/blocks/.*/kernel"
        # Without them, nothing could be trained before the towers are.
        also = () if probe_steps is None else (f"(?!{towers}|{blocks}).*",)
        run = dataclasses.replace(
            run,
            low_rank=LowRank(kernels=(blocks,), rank=rank, also_train=also),
            optim=dataclasses.replace(run.optim, learning_rate=_LORA_RATE),
        )
    if probe_steps is not None:
        groups = {"heads": Group(parameters=heads)}
        groups["towers"] = Group(parameters=towers, start=probe_steps)
        run = dataclasses.replace(run, groups=groups)
    return run


def _opened(source: Source) -> Any:
    from vljax.data.records import error_for_field

    try:
        records = source.open()
    except UserError as error:
        raise error_for_field(error, "data.source") from error
    if len(records) == 0:
        raise UserError(f"--data: {source.full_name} has no examples")
    return records


def _cadences(run: Run, steps: int, batch: int, probe_steps: int) -> Run:
    """The run with what follows from its length: a warm-up of a tenth, and when to evaluate.

    The towers have the same warm-up; at most half of their steps.
    """
    from vljax.optim.schedules import WarmupCosine

    warmup = min(steps // 10, (steps - probe_steps) // 2)
    return dataclasses.replace(
        run,
        optim=dataclasses.replace(run.optim, schedule=WarmupCosine(warmup_steps=warmup)),
        steps=steps,
        global_batch=batch,
        log_every=max(1, min(50, steps // 20)),
        evaluate_every=max(1, min(1000, steps // 5)),
        checkpoint_every=max(1, min(1000, steps // 5)),
    )


def _check_workdir(run: Run, workdir: str) -> None:
    """Raises UserError if the workdir holds another run or recipe."""
    from vljax.config import to_json
    from vljax.files import join
    from vljax.training.checkpoint import storage
    from vljax.workdir import check_recipe

    kept = join(workdir, RECIPE)
    try:
        check_recipe(workdir, run)
    except UserError as error:
        stored = storage.absolute(workdir) / RECIPE
        if not (stored.exists() and str(error).endswith("use another --workdir")):
            raise  # it has no recipe to go on with, or one that cannot be read
        go_on = f"or go on with that run: `vljax train {kept} --steps N`"
        raise UserError(f"{error}, {go_on}") from error
    recipe = to_json(run).encode()
    try:
        there = (storage.absolute(workdir) / RECIPE).read_bytes()
    except OSError:
        there = recipe
    if there != recipe:
        raise UserError(
            f"{kept} is another recipe, perhaps edited: train it with `vljax train {kept}`, name"
            " another --workdir, or remove it"
        )


def _check_trains(
    run: Run, model: SourceModel, read: SourceModel | None, workdir: str, recipe_only: bool
) -> list[str]:
    """Checks the recipe as training does, before a workdir with it stands in the user's way.

    Args:
      run: the recipe.
      model: the model that it is made from.
      read: the model at `init.path`, if it has been read.
      workdir: the workdir.
      recipe_only: whether the run is for other devices than those that are here.

    Returns:
      Notes on the recipe, and what is loaded from the model.

    Raises:
      UserError: for the first problem.
    """
    import tempfile

    from vljax.config import with_paths
    from vljax.files import join
    from vljax.interop import initial
    from vljax.parallel.mesh import MeshConfig, find_devices
    from vljax.run import check_trains, open_evaluation_data, prepare

    files, devices = initial.recipe_files(model), None
    if recipe_only:
        run = dataclasses.replace(run, mesh=MeshConfig(1, 1, 1), attention="auto")
        devices = find_devices()[:1]
    with tempfile.TemporaryDirectory() as folder:
        for name, content in files.items():
            os.makedirs(os.path.dirname(join(folder, name)), exist_ok=True)
            with open(join(folder, name), "wb") as file:
                file.write(content)
        moved = {join(workdir, name): join(folder, name) for name in files}
        run = with_paths(run, lambda path: moved.get(path, path))
        try:
            prepared = prepare(run, devices)
            check_trains(prepared)
            report = [f"note: {note}" for note in prepared.notes]
            report += initial.plan(prepared, read).report
            for name, evaluator in run.all_evaluators.items():
                open_evaluation_data(run, name, evaluator)
        except UserError as error:
            raise UserError(*(line.replace(folder, workdir) for line in error.lines)) from error
    return report


def _write(run: Run, model: SourceModel, workdir: str) -> str:
    """Writes the recipe and its vocabularies; returns the file of the recipe."""
    from vljax.config import to_json
    from vljax.files import join
    from vljax.interop.initial import recipe_files
    from vljax.training.checkpoint import storage

    folder = storage.absolute(workdir)
    try:
        for name, content in {**recipe_files(model), RECIPE: to_json(run).encode()}.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            storage.write(folder / name, content)
    except OSError as error:
        raise UserError(
            f"--workdir: {workdir} cannot be written ({storage.describe(error)})"
        ) from error
    return join(workdir, RECIPE)


def _print(run: Run, model: SourceModel, count: int, file: str, pixels: int | None) -> None:
    """The recipe in a few lines."""
    low_rank = run.low_rank
    frozen = [*run.optim.frozen, *(["all but low rank"] if low_rank.used else [])]
    nodes = (f"{name} ({node.type_name})" for name, node in run.model.nodes.items())
    transforms = (transform.type_name for transform in run.data.train_transforms)
    optim, examples = run.optim, f" ({count:,} examples)" if count else ""
    resized = ", with resized positions (init.resize True)" if run.init.resize else ""
    rows = {
        "model": f"{', '.join(nodes)}, from {model.title}",
        "tokenizer": ", ".join(t.type_name for t in run.data.tokenizers.values()),
        "data": f"{run.data.source.full_name}{examples}: {', '.join(transforms)}",
        **({} if pixels is None else {"images": f"{pixels} x {pixels} pixels{resized}"}),
        "objective": ", ".join(o.type_name for o in run.objectives.values()),
        "optimizer": f"{optim.type_name}, learning rate {optim.learning_rate:g}, layer decay"
        f" {optim.layer_decay:g}, frozen: {', '.join(frozen) or 'nothing'}",
    }
    if low_rank.used:
        also = ", ".join(low_rank.also_train) or "nothing"
        rows["low rank"] = f"{low_rank.rank}: {', '.join(low_rank.kernels)}; also trained: {also}"
    for name, group in run.groups.items():
        rows[name] = f"from step {group.start:,} on: {group.parameters}"
    rows |= {
        "length": f"{run.steps:,} steps of {run.global_batch:,} examples",
        "evaluators": ", ".join(run.evaluators) or "none; --validation SOURCE adds one",
        "recipe": file,
    }
    for name, value in rows.items():
        print(f"{name:10} {value}", file=sys.stderr)
