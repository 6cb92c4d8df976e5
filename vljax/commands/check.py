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
from vljax.overrides import override
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
            command, conflicts = _suggestion(recipe, refused, accepted, argv)
            print(command, file=sys.stderr if json_path == "-" else sys.stdout)
            lines += conflicts
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


_ROUNDS = 5
"""How often a recipe is changed again, since one override may need others."""


def _suggestion(
    recipe: Run,
    refused: Mapping[str, Sequence[ExportIssue]],
    accepted: Sequence[str],
    argv: Sequence[str],
) -> tuple[str, list[str]]:
    """One command that trains a model which the formats can express.

    Overrides are applied, and the recipe is checked again, until nothing is left to override. A
    field of which two formats need different values is left as it is.

    Returns:
      The command, and a line for each such field.

    Raises:
      UserError: if the overrides make no recipe.
    """
    formats = [*refused]
    wanted = dict[str, tuple[tuple[str, ...], str]]()  # field -> override, format
    left = dict[str, str]()  # field -> line
    for _ in range(_ROUNDS):
        changed = False
        for name, found in refused.items():
            for issue in found:
                if not issue.override or issue.field in left:
                    continue
                known, other = wanted.get(issue.field, (issue.override, name))
                if known != issue.override and other != name:
                    left[issue.field] = (
                        f"{issue.field} is left as it is: {other} needs {shlex.join(known)},"
                        f" {name} needs {shlex.join(issue.override)}"
                    )
                    del wanted[issue.field]
                else:
                    wanted[issue.field] = (issue.override, name)
                changed = True
        if not changed:
            break
        arguments = [argument for known, _ in wanted.values() for argument in known]
        try:
            prepared = prepare(override(recipe, arguments))
        except UserError as error:
            raise UserError(
                f"--suggest: {shlex.join(arguments)} makes no recipe: {error}"
            ) from None
        refused = _export_issues(prepared, formats, accepted)
    overrides = (argument for known, _ in wanted.values() for argument in known)
    return shlex.join(["vljax", "train", *argv, *overrides]), [*left.values()]


def _check_evaluation_data(run: Run) -> None:
    """Opens the files of evaluators. Raises UserError if an evaluator cannot measure them.

    Sources without files, such as composed scenes, have the columns that they say, and may take
    long to make, so they are left out.
    """
    for path, evaluator in run.all_evaluators.items():
        files = [file for _, file in config.paths(evaluator.source)]
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
    unset = [path for path, value in config.paths(run) if value is None]
    step = step_bytes(prepared)
    return {
        "ready": not unset,
        "unset": unset,
        "parameters": {**groups, "total": sum(groups.values())},
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
    console = Console()
    print_line(console, f"{spec}: valid")
    console.print(table)
    print_placement([ParameterPlacement(**row) for row in summary["placement"]], console)
    unset = {f"{path}: unset" for path in summary["unset"]}
    for note in summary["notes"]:
        if note not in unset:
            print_line(console, f"note: {note}")
    if unset:
        print_line(console, f"to train, set: {', '.join(f'--{path}' for path in summary['unset'])}")


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
