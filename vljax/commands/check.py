"""`vljax check RECIPE`: whether a recipe can run, and its sizes, without computing anything.

It also reads a sample of the training data, and opens the files of evaluators, if their paths are
set. With `--for` it says whether the trained model could be exported, too.
"""

from __future__ import annotations

import dataclasses
import math
import shlex
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from vljax import config
from vljax.commands.output import print_line, write_json
from vljax.commands.recipe_arguments import load_run, take_option
from vljax.config import UserError, suggest
from vljax.files import format_bytes
from vljax.interop.formats import ACCEPTABLE, FORMATS, check_accepted
from vljax.parallel.mesh import slices
from vljax.parallel.placement import ParameterPlacement, parameter_placements
from vljax.run import (
    Prepared,
    Run,
    check_data,
    check_trains,
    memory_notes,
    open_evaluation_data,
    prepare,
    state_bytes,
    step_bytes,
)

if TYPE_CHECKING:
    from vljax.interop.export_plan import ExportIssue

_RECORDS = 200
"""Training examples to read."""


def run(argv: list[str], json_path: str | None, prog: str) -> int:
    """Runs the command; returns the exit status.

    Raises:
      UserError: for the first thing that is wrong with the recipe.
    """
    given, argv = take_option("--records", "a number, 0 to read no data", argv)
    records = _number(given)
    formats, accepted, suggesting, argv = _export_options(argv)
    recipe = load_run(argv, prog)
    has_initial = bool(recipe.pretrained) or recipe.init.path is not None
    if has_initial:
        # This import is slow, so only recipes with initial values from files make it.
        from vljax.interop import initial, pretrained

        recipe = initial.pinned(pretrained.pinned(recipe))
    prepared = prepare(recipe)
    check_trains(prepared)
    summary = summarise(prepared)
    if has_initial:
        pretrained.check(prepared)
        summary["notes"] = [*summary["notes"], *initial.plan(prepared).report]
    if records and not any(path.startswith("data.") for path in summary["unset"]):
        summary["notes"] = [*summary["notes"], *check_data(prepared, records)]
    if records:
        _check_evaluation_data(recipe)
    refused = _export_issues(prepared, formats, accepted) if formats else {}
    if formats:
        exports = {name: [dataclasses.asdict(i) for i in found] for name, found in refused.items()}
        summary["export"] = exports
        noted = [i.message for found in refused.values() for i in found if i.at_export]
        summary["notes"] = [*summary["notes"], *noted]
    if json_path != "-":
        print_summary(argv[0], summary)
    write_json(json_path, summary)
    lines = [i.message for found in refused.values() for i in found if not i.at_export]
    if suggesting:
        try:
            suggested = _suggestion(refused, accepted, argv, prog)
            for note in suggested.notes:
                if note not in summary["notes"]:
                    print(f"note: {note}", file=sys.stderr)
            if suggested.command is not None:
                print(suggested.command, file=sys.stderr if json_path == "-" else sys.stdout)
            lines += suggested.lines
        except UserError as error:
            lines += error.lines
    if lines:
        raise UserError(*dict.fromkeys(lines))
    return 0


def _export_options(argv: list[str]) -> tuple[list[str], list[str], bool, list[str]]:
    """The formats of `--for`, the issues of `--accept`, `--suggest`, and the other arguments.

    Raises:
      UserError: for an unknown format or issue, or an option that needs `--for`.
    """
    meaning = f"formats, separated by commas: {', '.join(FORMATS)}"
    formats, argv = take_option("--for", meaning, argv)
    accepted, argv = take_option("--accept", f"issues: {', '.join(ACCEPTABLE)}", argv)
    rest = [argument for argument in argv if argument != "--suggest"]
    suggesting = len(rest) < len(argv)
    for option, given in (("--accept", accepted is not None), ("--suggest", suggesting)):
        if given and formats is None:
            raise UserError(f"{option}: needs --for FORMAT, what the model will be exported to")
    names = [] if formats is None else formats.split(",")
    for name in names:
        if name not in FORMATS:
            raise UserError(f"--for: unknown format {name!r}{suggest(name, FORMATS)}")
    issues = [] if accepted is None else accepted.split(",")
    check_accepted(issues)
    return [*dict.fromkeys(names)], issues, suggesting, rest


def _export_issues(
    prepared: Prepared, formats: Sequence[str], accepted: Sequence[str]
) -> dict[str, tuple[ExportIssue, ...]]:
    """What each format cannot express of the model that a recipe would train."""
    from vljax.interop.export_plan import ExportIssue, ExportRefused, of_recipe, plan_export

    trained, found = of_recipe(prepared), dict[str, tuple[ExportIssue, ...]]()
    for name in formats:
        try:
            plan_export(trained, name, accepted)
            found[name] = ()
        except ExportRefused as refused:
            found[name] = refused.issues
        except UserError as error:
            found[name] = (ExportIssue("model", str(error)),)
    return found


_ROUNDS = 8
"""How often a recipe is changed again, since one override may need others."""


class _Suggestion(NamedTuple):
    """What `--suggest` found."""

    command: str | None
    """The command that trains the changed recipe; None if no override brings a format nearer."""
    lines: tuple[str, ...]
    """What the changed recipe still cannot express, and fields with conflicting demands."""
    notes: tuple[str, ...]
    """What only the export of the changed recipe can tell."""


def _suggestion(
    refused: Mapping[str, Sequence[ExportIssue]],
    accepted: Sequence[str],
    argv: Sequence[str],
    prog: str,
) -> _Suggestion:
    """One command that trains a model which the formats can express.

    Formats that no override makes possible are named, and the others are tried without them.

    Args:
      refused: the issues of the recipe by format.
      accepted: issues that the export will accept.
      argv: the recipe and its overrides.
      prog: the command, for messages.

    Raises:
      UserError: if the overrides make no recipe.
    """
    formats, lines = [*refused], list[str]()
    while True:
        changes = _Changes(argv)
        left: Mapping[str, Sequence[ExportIssue]] = {name: refused[name] for name in formats}
        for _ in range(_ROUNDS):
            if not changes.add(left):
                break
            left = _issues_of_words(changes.words, formats, accepted, prog)
        remaining = {
            name: [i for i in found if not i.at_export and i.field not in changes.conflicts]
            for name, found in left.items()
        }
        lost = [name for name, found in remaining.items() if found]
        for name in lost:
            lines += [issue.message for issue in remaining[name]]
            fields = dict.fromkeys(issue.field for issue in remaining[name])
            lines.append(f"{name} cannot be reached by overrides: {', '.join(fields)}")
        if not lost:
            break
        formats = [name for name in formats if name not in lost]
    lines += changes.conflicts.values()
    fine = not any(not issue.at_export for found in refused.values() for issue in found)
    command = shlex.join(["vljax", "train", *changes.words]) if changes.wanted or fine else None
    notes = [i.message for found in left.values() for i in found if i.at_export]
    return _Suggestion(command, tuple(lines), tuple(dict.fromkeys(notes)))


class _Changes:
    """The overrides that export formats ask for, one round after the other."""

    def __init__(self, argv: Sequence[str]) -> None:
        self.argv = argv
        self.wanted = dict[str, tuple[str, ...]]()
        """Field -> override."""
        self.conflicts = dict[str, str]()
        """A field of which two formats need different values -> a line about it."""
        self._asked = dict[str, dict[tuple[str, ...], str]]()  # field -> override -> format

    @property
    def words(self) -> list[str]:
        """The recipe with its overrides, without those that the new ones replace."""
        kept = list[str]()
        replaced = False
        for word in self.argv:
            if word.startswith("--"):
                path = word[2:].partition("=")[0].replace("-", "_")
                replaced = any(_within(path, field) for field in self.wanted)
            if not replaced:
                kept.append(word)
        return [*kept, *(word for override in self.wanted.values() for word in override)]

    def add(self, refused: Mapping[str, Sequence[ExportIssue]]) -> bool:
        """Takes the overrides of issues; returns whether the recipe has to be checked again.

        The demands of formats are those of this round: an earlier one may be about a kind of model
        that the recipe no longer has. A field is in conflict if two formats need different values
        now, or if each undoes the value of the other.
        """
        before = self.words
        demands = dict[str, dict[tuple[str, ...], str]]()
        for name, found in refused.items():
            for issue in found:
                if issue.override:
                    demands.setdefault(issue.field, {}).setdefault(issue.override, name)
        self.conflicts = {}
        for field, values in demands.items():
            asked = self._asked.setdefault(field, {})
            if len(values) == 1 and not asked.keys() & values.keys():
                asked.update(values)
                # A component that replaces another may lack its fields.
                for inner in [f for f in self._asked if f != field and _within(f, field)]:
                    self._asked.pop(inner)
                    self.wanted.pop(inner, None)
                (self.wanted[field],) = values
                continue
            known = {**asked, **values}
            if len(known) > 1:
                needs = ", ".join(f"{name} needs {shlex.join(o)}" for o, name in known.items())
                self.conflicts[field] = f"{field} is left as it is: {needs}"
            self.wanted.pop(field, None)
        return self.words != before


def _within(path: str, field: str) -> bool:
    return path == field or path.startswith(f"{field}.")


def _issues_of_words(
    words: list[str], formats: Sequence[str], accepted: Sequence[str], prog: str
) -> dict[str, tuple[ExportIssue, ...]]:
    """The issues of a recipe with its overrides, read anew as `vljax train` reads them."""
    try:
        prepared = prepare(load_run(words, prog))
        check_trains(prepared)
    except UserError as error:
        raise UserError(f"--suggest: {shlex.join(words)} makes no recipe: {error}") from None
    return _export_issues(prepared, formats, accepted)


def _check_evaluation_data(run: Run) -> None:
    """Opens the files of evaluators. Raises UserError if an evaluator cannot measure them.

    Sources without files, such as composed scenes, have the columns that they say, and may take
    long to make, so they are left out.
    """
    for path, evaluator in run.all_evaluators.items():
        files = [file for _, file in config.paths(evaluator)]
        if files and None not in files:
            open_evaluation_data(run, path, evaluator)


def _number(given: str | None) -> int:
    if given is None:
        return _RECORDS
    if not given.isdecimal():
        raise UserError(f"--records: must be a whole number, not {given!r}")
    return int(given)


def summarise(prepared: Prepared) -> dict[str, Any]:
    """A prepared run as JSON data; `ready` is False if paths are still unset."""
    run = prepared.run
    groups = {
        name: sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(part))
        for name, part in prepared.shapes.params.items()
    }
    params = prepared.shapes.params
    trained = [prepared.task.trained(group, params) for group in prepared.task.groups]
    unset = [path for path, value in config.paths(run) if value is None]
    step = step_bytes(prepared)
    return {
        "ready": not unset,
        "unset": unset,
        "parameters": {**groups, "total": sum(groups.values())},
        "trained_parameters": sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(trained)),
        "platform": prepared.platform,
        "precision": run.precision.resolve(prepared.platform).compute,
        "mesh": dict(prepared.mesh.shape),
        "slices": slices(prepared.mesh.devices.flat),
        "steps": run.steps,
        "global_batch": run.global_batch,
        "examples": run.steps * run.global_batch,
        "image_lengths": run.data.image_lengths,
        "bytes_per_device": state_bytes(prepared),
        "step_bytes_per_device": step,
        "placement": [dataclasses.asdict(row) for row in placed(prepared)],
        "notes": [*prepared.notes, *memory_notes(prepared, step)],
    }


def placed(prepared: Prepared) -> list[ParameterPlacement]:
    """The placement of every parameter of a run."""
    params, axes = prepared.shapes.params, prepared.model.axes
    return parameter_placements(params, axes, prepared.mesh, prepared.run.mesh.fsdp_min_size)


def print_summary(spec: str, summary: dict[str, Any]) -> None:
    """Prints a summary as a table, with the placement of parameters, notes and unset paths."""
    mesh = " x ".join(f"{name} {size}" for name, size in summary["mesh"].items())
    over = f", {summary['slices']} slices" if summary["slices"] > 1 else ""
    rows = [(f"parameters, {name}", f"{n:,}") for name, n in summary["parameters"].items()]
    rows += [("parameters, trained", _trained(summary))]
    rows += [
        ("steps", f"{summary['steps']:,}"),
        ("global batch", f"{summary['global_batch']:,}"),
        ("examples seen", f"{summary['examples']:,}"),
        ("mesh", mesh + over),
        ("platform", f"{summary['platform']}, {summary['precision']}"),
    ]
    on_device = {**summary["bytes_per_device"], **summary["step_bytes_per_device"]}.items()
    rows += [(f"on each device, {name}", format_bytes(n)) for name, n in on_device]
    table = Table(box=box.HORIZONTALS, show_header=False)
    table.add_column(overflow="fold")
    table.add_column(justify="right", overflow="fold")
    for name, value in rows:
        table.add_row(name, value)
    console = Console(emoji=False)
    print_line(console, f"{spec}: valid")
    console.print(table)
    print_placement([ParameterPlacement(**row) for row in summary["placement"]], console)
    unset = {f"{path}: unset" for path in summary["unset"]}
    for note in summary["notes"]:
        if note not in unset:
            print_line(console, f"note: {note}")
    if unset:
        print_line(console, f"to train, set: {', '.join(f'--{path}' for path in summary['unset'])}")


def _trained(summary: Mapping[str, Any]) -> str:
    """How many parameters are trained: "all", or a number and its share."""
    trained, total = summary["trained_parameters"], summary["parameters"]["total"]
    return "all" if trained == total else f"{trained:,} ({trained / total:.2%})"


def print_placement(rows: Sequence[ParameterPlacement], console: Console) -> None:
    """Prints how parameters are split over devices, similar ones in one row."""
    split = [row for row in rows if row.split]
    whole = [row for row in rows if not row.split]
    if not split:
        print_line(console, f"every parameter whole on each device: {_per_device(rows)}")
    else:
        console.print(_table(split, whole))
    reasons = dict.fromkeys(why for row in rows for why in row.unsplit.values())
    for reason in reasons:
        kept = [row for row in rows if reason in row.unsplit.values()]
        paths = ", ".join(group.path for group in _grouped(kept))
        print_line(console, f"not split: {reason}: {paths} ({_per_device(kept)} on each device)")


def _table(split: Sequence[ParameterPlacement], whole: Sequence[ParameterPlacement]) -> Table:
    table = Table(box=box.HORIZONTALS)
    table.add_column("parameter", overflow="fold")
    table.add_column("shape", overflow="fold")
    table.add_column("per device", justify="right", no_wrap=True)
    for sharding in dict.fromkeys(row.sharding for row in split):
        table.add_row(f"[bold]{sharding}[/bold]")
        for group in _grouped([row for row in split if row.sharding == sharding]):
            shape = " x ".join(map(str, group.members[0].shape))
            table.add_row(f"  {escape(group.path)}", shape, _per_device(group.members))
        table.add_section()
    if whole:
        table.add_row("[bold]whole[/bold]")
        table.add_row(f"  {len(whole)} arrays", "", _per_device(whole))
    return table


class _ParameterGroup(NamedTuple):
    """Parameters of one shape and sharding. Their paths are all combinations of `segments`."""

    segments: tuple[tuple[str, ...], ...]
    members: tuple[ParameterPlacement, ...]

    @property
    def path(self) -> str:
        return "/".join(map(_alternatives, self.segments))


def _per_device(rows: Iterable[ParameterPlacement]) -> str:
    return format_bytes(sum(row.bytes_per_device for row in rows))


def _grouped(rows: Sequence[ParameterPlacement]) -> list[_ParameterGroup]:
    groups = [
        _ParameterGroup(tuple((part,) for part in row.path.split("/")), (row,)) for row in rows
    ]
    for position in range(max((len(group.segments) for group in groups), default=0)):
        alike: dict[object, list[_ParameterGroup]] = {}
        for group in groups:
            first, parts = group.members[0], group.segments
            kind = (first.shape, first.sharding, *first.unsplit.values())
            alike.setdefault((kind, parts[:position], parts[position + 1 :]), []).append(group)
        groups = [_merged(found, position) for found in alike.values()]
    return groups


def _merged(groups: Sequence[_ParameterGroup], position: int) -> _ParameterGroup:
    """Merges groups whose paths differ only in the segment at `position`."""
    if len(groups) == 1:
        return groups[0]
    parts = groups[0].segments
    here = tuple(name for group in groups for name in group.segments[position])
    members = tuple(row for group in groups for row in group.members)
    return _ParameterGroup((*parts[:position], here, *parts[position + 1 :]), members)


def _alternatives(names: Sequence[str]) -> str:
    """Names in the syntax of a shell: {image,text}, {0..11}."""
    if len(names) == 1:
        return names[0]
    if all(name.isdigit() for name in names):
        numbers = sorted(map(int, names))
        if numbers == list(range(numbers[0], numbers[-1] + 1)):
            return f"{{{numbers[0]}..{numbers[-1]}}}"
    return f"{{{','.join(names)}}}"
