"""Recipe fields on the command line: `--optim.learning_rate 3e-4`, `--objectives.main sigmoid`.

tyro parses the values and prints `--help`. Two things are done here instead:

- Components are switched by name before tyro parses the rest: it can switch the members of a union
  by sub-commands only. Members of dicts and sequences are added and removed.
- Its boxed errors become one line, and unknown fields get a suggestion.
"""

from __future__ import annotations

import contextlib
import dataclasses
import io
import itertools
import re
import types
import typing
from collections.abc import Iterator
from typing import Any, NoReturn, TypeVar

from vljax.config import Component, UserError, field_types, member, suggest, walk

__all__ = ["components", "override"]

T = TypeVar("T")


def override(recipe: T, args: list[str], prog: str = "vljax", epilog: str = "") -> T:
    """The recipe with command-line overrides applied.

    Args:
      recipe: a frozen dataclass.
      args: pairs of `--path.to.field` and value, as in `sys.argv`. `--help` prints all fields, and
        `--help path` those below a path. `--path.+NAME COMPONENT` adds an entry to a dict,
        `--path.+N COMPONENT` an element before number N of a sequence; `--path.+N.field VALUE` are
        its fields. `--path.N none` removes one. Numbers are always those of the given recipe.
      prog: the command that `--help` shows.
      epilog: text that `--help` prints after the fields and components.

    Raises:
      UserError: for an unknown field, with the nearest one, or an invalid value.
      SystemExit: after `--help`.

    >>> from vljax.recipes import AdamW
    >>> optim = override(AdamW(), ["--b2", "0.98", "--schedule", "linear"])
    >>> optim.b2, type(optim.schedule).__name__
    (0.98, 'WarmupLinear')
    >>> override(AdamW(), ["--learning_rat", "3e-4"])
    Traceback (most recent call last):
    vljax.config.UserError: unknown field 'learning_rat'; did you mean 'learning_rate'?
    """
    added, args = _take_added(recipe, args)
    recipe, removed, rest = _switch_components(recipe, args)
    if "--help" in rest and rest[rest.index("--help") + 1 :]:
        _print_section(recipe, rest[rest.index("--help") + 1], prog)
    for arg in rest:
        if arg.startswith("--") and arg != "--help":
            _check_known(recipe, arg[2:].partition("=")[0].replace("-", "_"))
    try:
        recipe = _parse(recipe, rest, prog)
    except SystemExit:
        print(_components_help(recipe) + epilog)
        raise
    return _with_members(recipe, added, removed)


def components(recipe: Any) -> dict[str, list[str]]:
    """The components of a recipe that can be switched: path -> possible names.

    The elements of a sequence share one entry, with `N` for their index.

    >>> from vljax.recipes import AdamW
    >>> components(AdamW())["schedule"][:3]
    ['constant', 'cosine', 'linear']
    """
    return dict(_components(recipe, type(recipe), ""))


def _components(value: Any, hint: Any, path: str) -> Iterator[tuple[str, list[str]]]:
    if path and (kind := _kind(hint)):
        names = [*sorted(kind.members), *(["none"] if _is_optional(hint) else [])]
        if len(names) > 1:
            yield path, names
    if dataclasses.is_dataclass(value):
        names = list(field_types(value.__class__))
    else:
        names = [str(name) for name in value] if isinstance(value, dict) else []
    for name in names:
        yield from _components(*_child(value, hint, name), f"{path}.{name}" if path else name)
    if isinstance(value, tuple):
        for i in range(len(value)):
            yield from _components(*_child(value, hint, str(i)), f"{path}.N")


def _components_help(recipe: Any) -> str:
    lines = [f"  --{path} {{{', '.join(names)}}}" for path, names in components(recipe).items()]
    if not lines:
        return ""
    return "\n".join(["components, each replaced by name:", *lines, ""])


def _parse(recipe: T, args: list[str], prog: str) -> T:
    import tyro

    complaint = io.StringIO()
    try:
        with contextlib.redirect_stderr(complaint):
            return tyro.cli(
                type(recipe),
                default=recipe,
                args=args,
                prog=prog,
                use_underscores=True,
                config=(tyro.conf.AvoidSubcommands, tyro.conf.FlagConversionOff),
            )
    except SystemExit as stop:
        if not stop.code:
            raise
        raise UserError(_one_line(complaint.getvalue())) from None


def _one_line(box: str) -> str:
    """The first paragraph of the box that tyro prints, as one line."""
    lines = [re.sub(r"^[│|]\s?|\s*[│|]$", "", line).strip() for line in box.splitlines()]
    body = []
    for line in lines:
        if re.match(r"[╭╰]", line):
            continue
        if re.fullmatch(r"─+", line):
            break
        body.append(line)
    return " ".join(body)


def _print_section(recipe: Any, path: str, prog: str) -> NoReturn:
    """Prints the fields below a path, and ends as `--help` does."""
    path = path.removeprefix("--").replace("-", "_")
    _check_known(recipe, path)
    value, hint = _at(recipe, path)
    if not dataclasses.is_dataclass(value) and not isinstance(value, dict | tuple):
        raise UserError(f"--help {path}: is a field without fields; use --help without a name")
    section: Any = value
    kind: Any = value.__class__ if dataclasses.is_dataclass(value) else hint
    for name in reversed(path.split(".")):
        above = dataclasses.make_dataclass("Section", [(name, kind)])
        section, kind = above(section), above
    try:
        _parse(section, ["--help"], prog)
    finally:
        listed = components(recipe).items()
        own = [
            f"  --{each} {{{', '.join(names)}}}"
            for each, names in listed
            if each == path or each.startswith(f"{path}.")
        ]
        print("\n".join(["components, each replaced by name:", *own]) if own else "")
    raise SystemExit(0)


# --- Adding and removing members ------------------------------------------------------------------


@dataclasses.dataclass
class _Added:
    """A member to add to a dict or sequence of components."""

    above: str
    """Path of the dict or sequence."""
    name: str
    """The name of the entry, or the number of the element that it is put before."""
    component: str = ""
    fields: list[str] = dataclasses.field(default_factory=list)
    """Arguments for its fields, `--FIELD` and value."""

    @property
    def path(self) -> str:
        return f"{self.above}.+{self.name}"


def _take_added(recipe: Any, args: list[str]) -> tuple[list[_Added], list[str]]:
    """The members that `--path.+NAME` arguments add, and the other arguments."""
    added: dict[str, _Added] = {}
    rest: list[str] = []
    position = 0
    while position < len(args):
        flag, equals, inline = args[position].partition("=")
        if not flag.startswith("--") or ".+" not in flag:
            rest.append(args[position])
            position += 1
            continue
        above, _, below = flag[2:].replace("-", "_").partition(".+")
        name, _, below = below.partition(".")
        member_of = added.setdefault(f"{above}.+{name}", _Added(above, name))
        if not equals and position + 1 >= len(args):
            raise UserError(f"--{member_of.path} needs a value")
        value = inline if equals else args[position + 1]
        position += 1 if equals else 2
        if not below:
            member_of.component = value
            continue
        member_of.fields += [f"--{below}", value]
        # Fields of sequences have several values.
        while not equals and position < len(args) and not args[position].startswith("--"):
            member_of.fields.append(args[position])
            position += 1
    for each in added.values():
        _check_added(recipe, each)
    return [*added.values()], rest


def _check_added(recipe: Any, added: _Added) -> None:
    _check_known(recipe, added.above)
    value, _ = _at(recipe, added.above)
    if not isinstance(value, dict | tuple) or not _kind_of_members(recipe, added.above):
        raise UserError(f"{added.path}: {added.above} has no members that can be added")
    if not added.component:
        raise UserError(f"{added.path}: name the component: --{added.path} NAME")
    if isinstance(value, dict) and added.name in value:
        raise UserError(
            f"{added.path}: is there already; replace it with --{added.above}.{added.name} NAME"
        )
    if isinstance(value, tuple) and not (added.name.isdigit() and int(added.name) <= len(value)):
        raise UserError(f"{added.path}: the number must be 0 to {len(value)}")


def _kind_of_members(recipe: Any, path: str) -> type[Component] | None:
    """The kind of components in a dict, or in a sequence of any length; None for others."""
    value, hint = _at(recipe, path)
    args = typing.get_args(hint)
    if isinstance(value, dict) and len(args) == 2:
        return _kind(args[1])
    if isinstance(value, tuple) and len(args) == 2 and args[1] is Ellipsis:
        return _kind(args[0])
    return None


def _at(recipe: Any, path: str) -> tuple[Any, Any]:
    """The value and annotation at a path."""
    value, hint = recipe, type(recipe)
    for name in path.split("."):
        value, hint = _child(value, hint, name)
    return value, hint


def _with_members(recipe: T, added: list[_Added], removed: list[str]) -> T:
    """The recipe with members added and elements of sequences removed."""
    elements: dict[str, dict[int, list[Any]]] = {}
    gone: dict[str, set[int]] = {}
    for path in removed:
        above, _, number = path.rpartition(".")
        gone.setdefault(above, set()).add(int(number))
    for each in added:
        kind = _kind_of_members(recipe, each.above)
        assert kind is not None
        made = _new(kind, each)
        if isinstance(_at(recipe, each.above)[0], dict):
            recipe = _replace(recipe, [*each.above.split("."), each.name], lambda _: made)  # noqa: B023
        else:
            elements.setdefault(each.above, {}).setdefault(int(each.name), []).append(made)
    for path in {*elements, *gone}:
        new, left_out = elements.get(path, {}), gone.get(path, set())

        def change(old: tuple[Any, ...]) -> tuple[Any, ...]:
            kept = []
            for i in range(len(old) + 1):
                kept += new.get(i, [])  # noqa: B023
                if i < len(old) and i not in left_out:  # noqa: B023
                    kept.append(old[i])
            return tuple(kept)

        recipe = _replace(recipe, path.split("."), change)
    return recipe


def _new(kind: type[Component], added: _Added) -> Component:
    """A component from its name and the arguments for its fields."""
    import tyro

    cls = member(kind, added.component, added.path)
    args, required = list(added.fields), dict[str, Any]()
    hints = field_types(cls)  # type: ignore[arg-type]
    for field in dataclasses.fields(cls):  # type: ignore[arg-type]
        missing = dataclasses.MISSING
        if field.default is not missing or field.default_factory is not missing:
            continue
        path = f"{added.path}.{field.name}"
        if f"--{field.name}" not in args:
            raise UserError(f"{path}: has no default; add --{path} VALUE")
        i = args.index(f"--{field.name}")
        values = list(itertools.takewhile(lambda arg: not arg.startswith("--"), args[i + 1 :]))
        del args[i : i + 1 + len(values)]
        if of := _kind(hints[field.name]):
            required[field.name] = _switched(of, values[0], None, path)
            continue
        try:
            with contextlib.redirect_stderr(io.StringIO()):
                required[field.name] = tyro.cli(hints[field.name], args=values)
        except SystemExit:
            raise UserError(f"{path}: {' '.join(values)!r} is not a value of it") from None
    try:
        made: Component = override(cls(**required), args)
    except UserError as error:
        raise UserError(f"{added.path}: {error}") from error
    return made


def _switch_components(recipe: Any, args: list[str]) -> tuple[Any, list[str], list[str]]:
    """Applies each `--path NAME` whose path holds a component.

    Returns:
      The recipe, the elements of sequences that are to be removed, and the other arguments.
    """
    rest: list[str] = []
    removed: list[str] = []
    position = 0
    while position < len(args):
        flag, equals, inline = args[position].partition("=")
        path = flag[2:].replace("-", "_")
        kind = _kind_at(recipe, path) if flag.startswith("--") else None
        if kind is None:
            rest.append(args[position])
            position += 1
            continue
        if not equals and position + 1 >= len(args):
            raise UserError(f"--{path} needs a name{suggest('', kind.members)}")
        name = inline if equals else args[position + 1]
        if name.lower() == "none" and _is_element(recipe, path):
            removed.append(path)  # at the end, so that the numbers of the others stay
        elif name.lower() == "none":
            recipe = _without(recipe, path)
        else:
            recipe = _replace(recipe, path.split("."), lambda old: _switched(kind, name, old, path))  # noqa: B023
        position += 1 if equals else 2
    return recipe, removed, rest


def _is_element(recipe: Any, path: str) -> bool:
    """Whether a path names an element of a sequence of any length."""
    above = path.rpartition(".")[0]
    return bool(above) and isinstance(_at(recipe, above)[0], tuple)


def _without(recipe: Any, path: str) -> Any:
    """The recipe with None at a path, or with the entry removed from its dict."""
    *above, name = path.split(".")
    value, hint = recipe, type(recipe)
    for part in above:
        value, hint = _child(value, hint, part)
    if _is_optional(_child(value, hint, name)[1]):
        return _replace(recipe, [*above, name], lambda _: None)
    if isinstance(value, dict):
        return _replace(recipe, above, lambda old: {k: v for k, v in old.items() if k != name})
    raise UserError(f"{path}: cannot be none")


def _switched(kind: type[Component], name: str, old: Any, path: str) -> Component:
    cls = member(kind, name, path)
    if old is not None and type(old) is cls:
        return old
    # Keep the values of fields that all members of the kind have: learning rate, schedule, weight.
    kept: dict[str, Any] = {}
    if old is not None and dataclasses.is_dataclass(kind):
        kept = {field.name: getattr(old, field.name) for field in dataclasses.fields(kind)}
    for field in dataclasses.fields(cls):  # type: ignore[arg-type]
        if field.name in kept:
            continue
        missing = dataclasses.MISSING
        if field.default is missing and field.default_factory is missing:
            if not hasattr(old, field.name):
                raise UserError(
                    f"{path}: {name!r} has no default for {field.name!r}: set it in the recipe"
                )
            kept[field.name] = getattr(old, field.name)
    return cls(**kept)


def _kind_at(recipe: Any, path: str) -> type[Component] | None:
    """The kind of the component at a path, or None if there is something else."""
    value, hint = recipe, type(recipe)
    for name in path.split("."):
        value, hint = _child(value, hint, name)
        if hint is None:
            return None
    return _kind(hint)


def _kind(hint: Any) -> type[Component] | None:
    """The kind of component that an annotation allows, or None."""
    for option in _options(hint):
        if isinstance(option, type) and issubclass(option, Component):
            return option.__mro__[option.__mro__.index(Component) - 1]
    return None


def _options(hint: Any) -> tuple[Any, ...]:
    union = typing.get_origin(hint) in (typing.Union, types.UnionType)
    return typing.get_args(hint) if union else (hint,)


def _is_optional(hint: Any) -> bool:
    return types.NoneType in _options(hint)


def _child(value: Any, hint: Any, name: str) -> tuple[Any, Any]:
    """The value and annotation of a field, entry or element; (None, None) if it does not exist."""
    if dataclasses.is_dataclass(value):
        hints = field_types(value.__class__)
        return (getattr(value, name), hints[name]) if name in hints else (None, None)
    args = typing.get_args(hint)
    if isinstance(value, dict) and name in value:
        return value[name], args[1]
    if isinstance(value, tuple) and name.isdigit() and int(name) < len(value):
        variadic = len(args) == 2 and args[1] is Ellipsis
        return value[int(name)], args[0] if variadic else args[int(name)]
    return None, None


def _replace(value: Any, path: list[str], change: Any) -> Any:
    if not path:
        return change(value)
    head, rest = path[0], path[1:]
    if isinstance(value, dict):
        return {**value, head: _replace(value.get(head), rest, change)}
    if isinstance(value, tuple):
        i = int(head)
        return (*value[:i], _replace(value[i], rest, change), *value[i + 1 :])
    return dataclasses.replace(value, **{head: _replace(getattr(value, head), rest, change)})


def _check_known(recipe: Any, path: str) -> None:
    value, hint = recipe, type(recipe)
    for depth, name in enumerate(parts := path.split(".")):
        if dataclasses.is_dataclass(value):
            options = list(field_types(value.__class__))
        elif isinstance(value, dict):
            options = list(value)
        elif isinstance(value, tuple):
            options = [str(i) for i in range(len(value))]
        else:
            options = []
        if name not in options and len(parts) == 1 and (found := _elsewhere(recipe, name)):
            raise UserError(f"unknown field {path!r}; did you mean {found}?")
        if name not in options:
            above = "".join(f"{part}." for part in parts[:depth])
            raise UserError(
                f"unknown field {path!r}{suggest(name, options, above)}{_how_to_add(value, hint)}"
            )
        value, hint = _child(value, hint, name)


def _how_to_add(value: Any, hint: Any) -> str:
    """The end of a message about a member that is not in a dict of components."""
    args = typing.get_args(hint)
    if isinstance(value, dict) and len(args) == 2 and _kind(args[1]):
        return "; a + before its name adds one"
    return ""


_USUAL = {
    "batch": "global_batch",
    "batch_size": "global_batch",
    "bs": "global_batch",
    "lr": "learning_rate",
    "max_steps": "steps",
    "num_steps": "steps",
    "num_workers": "workers",
    "out": "workdir",
    "output_dir": "workdir",
    "save_every": "checkpoint_every",
    "warmup": "warmup_steps",
    "wd": "weight_decay",
}
"""Names of other software -> ours."""


def _elsewhere(recipe: Any, name: str) -> str:
    """The fields deeper in a recipe that have a name, or ours for it: up to 3, for a message."""
    name = _USUAL.get(name, name)
    found = [
        f"{path}.{name}" if path else name
        for path, part in walk(recipe)
        if name in field_types(part.__class__)
    ]
    nearest = sorted(found, key=lambda path: (path.count("."), path))[:3]
    return " or ".join(map(repr, nearest))
