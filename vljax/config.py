"""Recipes as data: components by name, JSON, validation, comparison, and loading of recipe files.

A recipe is a tree of frozen dataclasses. Nothing here knows the meaning of a field. A dataclass may
define two methods that `validate` and `notes` call:

- `problems()` yields `(field, message)` for each invalid value.
- `notes()` yields `(field, message)` for each valid value that a user should know about.

Overrides from the command line are in `vljax.overrides`.
"""

from __future__ import annotations

import dataclasses
import difflib
import functools
import importlib.util
import inspect
import json
import math
import os
import re
import sys
import types
import typing
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, ClassVar, TypeVar

T = TypeVar("T")


MOST_CHARACTERS = 2000
"""Longest message of a `UserError` or `ExampleError`."""


def one_line(text: str) -> str:
    """A message as one printable line of bearable length, whatever it quotes from a file.

    Line breaks become spaces. Other characters that do not print are escaped: control characters,
    halves of an emoji, bytes of names that are not UTF-8. The middle of a long text is left out.

    >>> one_line("no column 'a\\x1b'\\n  known: b")
    "no column 'a\\\\x1b' known: b"
    """
    line = " ".join(filter(None, (part.strip() for part in text.splitlines())))
    if not line.isprintable():
        line = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in line)
    if len(line) > MOST_CHARACTERS:
        end = MOST_CHARACTERS // 4
        line = f"{line[: MOST_CHARACTERS - end - 5]} ... {line[-end:]}"
    return line


class UserError(Exception):
    """Invalid input: one line that names the field or file and the remedy. Commands exit with 2.

    Several messages make several lines, for a command that reports all that is wrong at once.
    """

    def __init__(self, *messages: str) -> None:
        self.lines = tuple(map(one_line, messages))
        super().__init__("\n".join(self.lines))


class Component:
    """A part of a recipe that can be replaced by name, such as an objective.

    A kind derives from this class directly. A member derives from its kind, with a name, and is a
    frozen dataclass.

    >>> @dataclasses.dataclass(frozen=True)
    ... class Shape(Component):
    ...     pass
    >>> @dataclasses.dataclass(frozen=True)
    ... class Circle(Shape, name="circle"):
    ...     radius: float = 1.0
    >>> Shape.members["circle"](radius=2.0)
    Circle(radius=2.0)
    """

    members: ClassVar[dict[str, type[Component]]]
    """The members of a kind by name."""
    type_name: ClassVar[str]
    """The name of a member."""

    def __init_subclass__(cls, name: str | None = None, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if Component in cls.__bases__:
            cls.members = {}
        elif name is not None:
            if name in cls.members:
                raise TypeError(f"two components are named {name!r}: {cls.members[name]} and {cls}")
            cls.members[name] = cls
            cls.type_name = name


def setting(
    default: Any = dataclasses.MISSING, *, identity: bool = True, path: bool = False
) -> Any:
    """A dataclass field of a recipe with metadata.

    Args:
      default: default value, or a function that makes it; without it the field is required.
      identity: whether two runs that differ in this field are different runs. False for fields
        that change how a run is executed but not what it computes (workdir, log interval).
      path: whether the value names a file or folder, which must exist once it is set. Paths are
        not part of a run's identity, because the files may be moved.

    >>> @dataclasses.dataclass(frozen=True)
    ... class Recipe:
    ...     file: str | None = setting(None, path=True)
    ...     threads: int = setting(1, identity=False)
    >>> differences(Recipe(threads=1), Recipe(threads=8))
    []
    """
    metadata = {"identity": identity and not path, "path": path}
    if callable(default):
        return dataclasses.field(default_factory=default, metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)


def suggest(name: str, options: Iterable[str], prefix: str = "") -> str:
    """The end of an error message: the nearest option, or all options, each after `prefix`.

    >>> suggest("sofmax", ["sigmoid", "softmax"])
    "; did you mean 'softmax'?"
    >>> suggest("l2", ["sigmoid", "softmax"])
    '; known: sigmoid, softmax'
    """
    options = sorted(options)
    near = difflib.get_close_matches(name, options, n=1, cutoff=0.6)
    if near:
        return f"; did you mean {prefix + near[0]!r}?"
    return f"; known: {', '.join(prefix + option for option in options)}" if options else ""


def member(kind: type[Component], name: str, path: str = "") -> type[Component]:
    """The member of a kind with a name. Raises UserError with a suggestion if there is none."""
    if name not in kind.members:
        where = f"{path}: " if path else ""
        raise UserError(
            f"{where}unknown {kind.__name__.lower()} {name!r}{suggest(name, kind.members)}"
        )
    return kind.members[name]


# --- To and from JSON -----------------------------------------------------------------------------


def encode(value: Any) -> Any:
    """A recipe, or a part of one, as JSON data; a component has its name as `type`.

    >>> from vljax.recipes import AdamW
    >>> data = encode(AdamW(learning_rate=1e-3))
    >>> data["type"], data["learning_rate"]
    ('adamw', 0.001)
    >>> decode(AdamW, data) == AdamW(learning_rate=1e-3)
    True
    """
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {f.name: encode(getattr(value, f.name)) for f in dataclasses.fields(value)}
        return {"type": value.type_name, **fields} if isinstance(value, Component) else fields
    if isinstance(value, dict):
        return {key: encode(item) for key, item in value.items()}
    if isinstance(value, tuple | list):
        return [encode(item) for item in value]
    return value


def decode(hint: Any, data: Any, path: str = "") -> Any:
    """The recipe, or part of one, from JSON data; checks types strictly.

    Args:
      hint: the annotated type.
      data: JSON data, as `encode` returns it.
      path: the position in the recipe, for error messages.

    Raises:
      UserError: for an unknown field or component, a missing field, a value of another type, or a
        number that is not finite.
    """
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return _decode_union(args, data, path)
    if origin is typing.Literal:
        if data not in args:
            options = [str(option) for option in args]
            raise UserError(f"{path}: unknown value {data!r}{suggest(str(data), options)}")
        return data
    if origin is tuple:
        return _decode_tuple(args, data, path)
    if origin is dict:
        _expect(isinstance(data, dict), "a mapping", data, path)
        return {key: decode(args[1], item, _join(path, key)) for key, item in data.items()}
    if isinstance(hint, type) and (issubclass(hint, Component) or dataclasses.is_dataclass(hint)):
        return _decode_dataclass(hint, data, path)
    if hint is float and isinstance(data, int) and not isinstance(data, bool):
        try:
            return float(data)
        except OverflowError:
            raise UserError(f"{path}: the number is too large") from None
    if hint in (bool, int, float, str, types.NoneType):
        matches = isinstance(data, hint) and (hint is bool or not isinstance(data, bool))
        name = "None" if hint is types.NoneType else hint.__name__
        _expect(matches, name, data, path)
        if hint is float and not math.isfinite(data):
            raise UserError(f"{path}: must be finite, got {data}")
        return data
    raise TypeError(f"{path}: recipes cannot hold fields of type {hint}")


def _join(path: str, name: object) -> str:
    return f"{path}.{name}" if path else str(name)


def _expect(condition: bool, wanted: str, data: Any, path: str) -> None:
    if not condition:
        where = f"{path}: " if path else ""
        raise UserError(f"{where}expected {wanted}, got {data!r} ({type(data).__name__})")


def _decode_union(options: tuple[Any, ...], data: Any, path: str) -> Any:
    if data is None and types.NoneType in options:
        return None
    options = tuple(option for option in options if option is not types.NoneType)
    for option in options[:-1]:
        try:
            return decode(option, data, path)
        except UserError:
            continue
    return decode(options[-1], data, path)


def _decode_tuple(args: tuple[Any, ...], data: Any, path: str) -> tuple[Any, ...]:
    _expect(isinstance(data, list | tuple), "a sequence", data, path)
    if len(args) == 2 and args[1] is Ellipsis:
        args = (args[0],) * len(data)
    _expect(len(args) == len(data), f"{len(args)} values", data, path)
    return tuple(
        decode(arg, item, _join(path, i))
        for i, (arg, item) in enumerate(zip(args, data, strict=True))
    )


def _decode_dataclass(hint: type, data: Any, path: str) -> Any:
    _expect(isinstance(data, dict), f"fields of {hint.__name__}", data, path)
    data = dict(data)
    cls: Any = hint
    if issubclass(hint, Component):
        name = data.pop("type", getattr(hint, "type_name", None))
        _expect(isinstance(name, str), f"a {hint.__name__.lower()} with its type", name, path)
        cls = member(hint, name, path)
    hints = field_types(cls)
    for name in data:
        if name not in hints:
            raise UserError(f"unknown field {_join(path, name)!r}{suggest(name, hints)}")
    values = {name: decode(hints[name], item, _join(path, name)) for name, item in data.items()}
    for field in dataclasses.fields(cls):
        if field.name not in values and _is_required(field):
            raise UserError(f"missing field {_join(path, field.name)!r}")
    return cls(**values)


def _is_required(field: dataclasses.Field[Any]) -> bool:
    missing = dataclasses.MISSING
    return field.default is missing and field.default_factory is missing


@functools.cache
def field_types(cls: Any) -> dict[str, Any]:
    """Field name -> resolved annotation of a dataclass."""
    hints = typing.get_type_hints(cls)
    return {field.name: hints[field.name] for field in dataclasses.fields(cls)}


def to_json(recipe: Any) -> str:
    """The whole recipe as JSON text with one field per line."""
    return json.dumps(encode(recipe), indent=2) + "\n"


# --- Validation and comparison --------------------------------------------------------------------


def walk(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Yields every dataclass in a recipe with its path, inner ones first.

    >>> from vljax.recipes import AdamW
    >>> [(path, type(part).__name__) for path, part in walk(AdamW(), "optim")]
    [('optim.schedule', 'WarmupCosine'), ('optim', 'AdamW')]
    """
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        for field in dataclasses.fields(value):
            yield from walk(getattr(value, field.name), _join(path, field.name))
        yield path, value
    elif isinstance(value, dict):
        for key, item in value.items():
            yield from walk(item, _join(path, key))
    elif isinstance(value, tuple):
        for i, item in enumerate(value):
            yield from walk(item, _join(path, i))


def validate(recipe: T) -> T:
    """The recipe after all checks; an int in a float field becomes a float.

    Checks types, calls `problems()` of every dataclass, and checks that paths that are set exist.
    `problems()` of inner dataclasses comes first, so that an outer one can rely on valid fields.

    Raises:
      UserError: for the first problem, with the path of the field.
    """
    recipe = decode(type(recipe), encode(recipe))
    for path, part in walk(recipe):
        for name, message in getattr(part, "problems", tuple)():
            raise UserError(f"{_join(path, name)}: {message}")
    for path, value in paths(recipe):
        for single in (value,) if isinstance(value, str) else value or ():
            # For a pattern, check only its folder; its files are listed when they are read.
            above = re.split(r"[^/]*[*?\[{]", single, maxsplit=1)[0] or "."
            if not path_exists(above):
                raise UserError(f"{path}: no such file or folder: {above}")
    return recipe


def notes(recipe: Any) -> list[str]:
    """Notes on a valid recipe, one line each: from `notes()` of its parts, and unset paths."""
    lines = [
        f"{_join(path, name)}: {message}"
        for path, part in walk(recipe)
        for name, message in getattr(part, "notes", tuple)()
    ]
    return lines + [f"{path}: unset" for path, value in paths(recipe) if value is None]


def paths(recipe: Any) -> Iterator[tuple[str, str | tuple[str, ...] | None]]:
    """The fields of a recipe that name files, folders or patterns, with their values."""
    for path, part in walk(recipe):
        for field in dataclasses.fields(part):
            if field.metadata.get("path"):
                yield _join(path, field.name), getattr(part, field.name)


def with_paths(recipe: T, change: Callable[[Any], Any]) -> T:
    """The recipe with `change(value)` for each value of `paths`.

    >>> from vljax.recipes import Csv
    >>> with_paths(Csv("photos.csv"), lambda path: f"/data/{path}").path
    '/data/photos.csv'
    """
    data = encode(recipe)
    for path, value in paths(recipe):
        *parents, name = path.split(".")
        node = data
        for parent in parents:
            node = node[int(parent) if isinstance(node, list) else parent]
        node[name] = change(value)
    changed: T = decode(type(recipe), data)
    return changed


def path_exists(path: str) -> bool:
    """Whether a local or remote (`gs://`, `s3://`) file or folder exists.

    Raises:
      UserError: for an unknown URL scheme, or one whose package is not installed.
    """
    scheme, remote, _ = path.partition("://")
    if not remote:
        return Path(os.path.expanduser(path)).exists()
    if scheme not in REMOTE_PACKAGES:
        raise UserError(f"{path}: unknown kind of address; known: gs://, s3://")
    from etils import epath

    try:
        return epath.Path(path).exists()
    except ImportError:
        raise UserError(
            f"{path}: {scheme}:// needs a package: pip install {REMOTE_PACKAGES[scheme]}"
        ) from None


REMOTE_PACKAGES = {"gs": "gcsfs", "s3": "s3fs"}
"""URL scheme -> the package with its fsspec file system."""


def differences(left: Any, right: Any) -> list[tuple[str, Any, Any]]:
    """The fields that make two recipes different runs: (path, left value, right value).

    Ignores fields that are not part of a run's identity, see `setting`.

    >>> from vljax.recipes import AdamW
    >>> differences(AdamW(b2=0.98), AdamW(b2=0.95))
    [('b2', 0.98, 0.95)]
    """
    rows = [_identity(side, "") for side in (left, right)]
    keys = sorted(rows[0].keys() | rows[1].keys())
    return [
        (key, rows[0].get(key), rows[1].get(key))
        for key in keys
        if rows[0].get(key) != rows[1].get(key)
    ]


def _identity(value: Any, path: str) -> dict[str, Any]:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        rows = {_join(path, "type"): value.type_name} if isinstance(value, Component) else {}
        for field in dataclasses.fields(value):
            if field.metadata.get("identity", True):
                rows |= _identity(getattr(value, field.name), _join(path, field.name))
        return rows
    if isinstance(value, dict):
        items: Iterable[tuple[Any, Any]] = value.items()
    elif isinstance(value, tuple):
        items = enumerate(value)
    else:
        return {path: value}
    return {k: v for key, item in items for k, v in _identity(item, _join(path, key)).items()}


# --- Recipe files ---------------------------------------------------------------------------------


def load(spec: str, expected: type[T]) -> T:
    """The recipe of `configs/NAME.py` or `configs/NAME.py:VARIANT`, not yet validated.

    Args:
      spec: path of a Python file that defines `recipe(variant: str = "")`, and the variant.
      expected: the type that `recipe()` must return.

    Raises:
      UserError: if the file is missing, raises an error or has no valid `recipe()`.
    """
    file, _, variant = spec.partition(":")
    path = Path(file)
    if not path.is_file():
        siblings = (
            [str(other) for other in path.parent.glob("*.py")] if path.parent.is_dir() else []
        )
        raise UserError(f"no recipe file {file!r}{suggest(file, siblings)}")
    recipe = getattr(_run_file(path), "recipe", None)
    if not callable(recipe):
        raise UserError(
            f"{file} defines no recipe(): add `def recipe(variant: str = '') -> vljax.recipes.Run`"
        )
    run = _call(recipe, variant, file)
    if not isinstance(run, expected):
        raise UserError(f"{file}: recipe() returned {type(run).__name__}, not {expected.__name__}")
    return run


def choose(variant: str, variants: dict[str, T]) -> T:
    """The entry of a recipe's variant. Raises UserError with the known variants.

    >>> choose("tiny", {"": 240, "tiny": 20})
    20
    >>> choose("tinny", {"": 240, "tiny": 20})
    Traceback (most recent call last):
    vljax.config.UserError: unknown variant 'tinny'; did you mean 'tiny'?
    """
    if variant not in variants:
        named = [name for name in variants if name]
        known = suggest(variant, named) or "; this recipe has none"
        raise UserError(f"unknown variant {variant!r}{known}")
    return variants[variant]


def _run_file(path: Path) -> types.ModuleType:
    spec = importlib.util.spec_from_file_location(f"vljax_recipe_{path.stem}", path)
    if spec is None or spec.loader is None:
        raise UserError(f"{path} is not a Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses of a recipe file look up their module
    sys.path.insert(0, str(path.parent))  # a recipe may import from other recipes
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        raise UserError(_where(path, error)) from error
    finally:
        sys.path.remove(str(path.parent))
    return module


def _call(recipe: Callable[[str], T], variant: str, file: str) -> T:
    try:
        inspect.signature(recipe).bind(variant)
    except TypeError:
        raise UserError(
            f"{file}: recipe() must take the variant: def recipe(variant: str = '')"
        ) from None
    try:
        return recipe(variant)
    except UserError as error:
        raise UserError(f"{file}: {error}") from error
    except Exception as error:
        raise UserError(_where(Path(file), error)) from error


def _where(path: Path, error: Exception) -> str:
    """An exception from a recipe file as one line, with the line number in that file."""
    line = error.lineno if isinstance(error, SyntaxError) else None
    trace, absolute = error.__traceback__, os.path.abspath(path)
    while trace is not None:
        # Python makes the name of a file that it runs absolute.
        if trace.tb_frame.f_code.co_filename == absolute:
            line = trace.tb_lineno
        trace = trace.tb_next
    message = " ".join(str(error.msg if isinstance(error, SyntaxError) else error).split())
    place = path if line is None else f"{path}:{line}"
    remedy = ""
    if isinstance(error, ModuleNotFoundError) and error.name:
        name = error.name.partition(".")[0]
        remedy = f"; copy {name}.py beside the recipe, if it is a recipe, or install the package"
    return f"{place}: {type(error).__name__}: {message}{remedy}"
