"""Recipes as data: JSON, validation, comparison and recipe files, on a small example."""

import dataclasses
import json
import sys
from dataclasses import dataclass, field
from typing import Literal

import pytest

from vljax import config
from vljax.config import Component, UserError, setting
from vljax.data.records import ExampleError


class Shape(Component):
    """A kind."""


@dataclass(frozen=True)
class Circle(Shape, name="circle"):
    """A member."""

    radius: float = 1.0


@dataclass(frozen=True)
class Box(Shape, name="box"):
    """A member with a required field and a check."""

    size: int
    colour: Literal["red", "green"] = "red"

    def problems(self):
        if self.size < 0:
            yield "size", f"must be at least 0, not {self.size}"

    def notes(self):
        if self.size == 13:
            yield "size", "brings bad luck"


@dataclass(frozen=True)
class Picture:
    """A recipe."""

    shapes: dict[str, Shape]
    background: Shape | None = None
    rules: tuple[tuple[str, float], ...] = ((".*", 1.0),)
    title: str = ""
    scale: float = 1.0
    file: str | None = setting(None, path=True)
    threads: int = setting(1, identity=False)
    frame: Circle = field(default_factory=Circle)


def picture(**changes) -> Picture:
    return dataclasses.replace(Picture({"a": Circle(), "b": Box(2)}), **changes)


def test_round_trip_through_json():
    recipe = picture(background=Box(3, "green"), file="x", rules=((".*a", 0.5), (".*", 2.0)))
    data = json.loads(config.to_json(recipe))
    assert data["shapes"]["b"] == {"type": "box", "size": 2, "colour": "red"}
    assert config.decode(Picture, data) == recipe


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"titel": "x"}, "unknown field 'titel'; did you mean 'title'?"),
        ({"scale": "1"}, "scale: expected float, got '1' (str)"),
        ({"scale": True}, "scale: expected float, got True (bool)"),
        ({"scale": float("nan")}, "scale: must be finite, got nan"),
        ({"rules": [["a", float("-inf")]]}, "rules.0.1: must be finite, got -inf"),
        ({"threads": 1.5}, "threads: expected int, got 1.5 (float)"),
        ({"shapes": []}, "shapes: expected a mapping, got [] (list)"),
        ({"rules": [["a"]]}, "rules.0: expected 2 values, got ['a'] (list)"),
        ({"frame": {"type": "box", "radius": 1.0}}, "unknown field 'frame.size'"),
        ({"background": {"type": "boxx"}}, "background: unknown shape 'boxx'; did you mean 'box'?"),
        ({"background": {"type": "box"}}, "missing field 'background.size'"),
        ({"background": {"size": 1}}, "background: expected a shape with its type"),
        (
            {"shapes": {"a": {"type": "box", "size": 1, "colour": "gren"}}},
            "shapes.a.colour: unknown value 'gren'; did you mean 'green'?",
        ),
    ],
)
def test_decode_errors_name_the_field(change, message):
    data = config.encode(picture()) | change
    if "frame" in change:
        data["frame"] = {"type": "circle", "size": 1}
    with pytest.raises(UserError) as error:
        config.decode(Picture, data)
    assert message in str(error.value)


def test_validate_turns_an_int_into_a_float():
    assert isinstance(config.validate(picture(scale=2)).scale, float)


def test_validate_checks_every_part():
    with pytest.raises(UserError, match=r"shapes\.b\.size: must be at least 0, not -1"):
        config.validate(picture(shapes={"b": Box(-1)}))


@dataclass(frozen=True)
class Frame:
    """Its check relies on a valid inner part."""

    inside: Box

    def problems(self):
        yield "inside", "checked before its part"


def test_inner_parts_are_checked_first():
    with pytest.raises(UserError, match=r"inside\.size: must be at least 0, not -1"):
        config.validate(Frame(Box(-1)))


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("gs://bucket/x", "gs://bucket/x: gs:// needs a package: pip install gcsfs"),
        ("s3://bucket/x", "s3://bucket/x: s3:// needs a package: pip install s3fs"),
        ("gcs://bucket/x", "gcs://bucket/x: unknown kind of address; known: gs://, s3://"),
    ],
)
def test_remote_paths_need_their_package(monkeypatch, path, message):
    monkeypatch.setitem(sys.modules, "gcsfs", None)  # as if it were not installed
    monkeypatch.setitem(sys.modules, "s3fs", None)
    with pytest.raises(UserError) as error:
        config.path_exists(path)
    assert str(error.value) == message


def test_paths_that_are_set_must_exist(tmp_path):
    assert config.validate(picture(file=str(tmp_path)))
    with pytest.raises(UserError, match="file: no such file or folder: /nowhere/at/all"):
        config.validate(picture(file="/nowhere/at/all"))


def test_notes_list_unset_paths():
    recipe = picture(shapes={"b": Box(13)})
    assert config.notes(recipe) == ["shapes.b.size: brings bad luck", "file: unset"]


def test_differences_ignore_fields_outside_the_identity():
    other = picture(threads=8, file="elsewhere", scale=3.0, shapes={"a": Circle(), "b": Circle(5)})
    assert config.differences(picture(), other) == [
        ("scale", 1.0, 3.0),
        ("shapes.b.colour", "red", None),
        ("shapes.b.radius", None, 5),
        ("shapes.b.size", 2, None),
        ("shapes.b.type", "box", "circle"),
    ]


def test_two_components_cannot_share_a_name():
    with pytest.raises(TypeError, match="two components are named 'circle'"):

        @dataclass(frozen=True)
        class Other(Shape, name="circle"):
            pass


def write(tmp_path, text):
    file = tmp_path / "recipe.py"
    file.write_text(text)
    return str(file)


def test_load_passes_the_variant(tmp_path):
    file = write(tmp_path, "def recipe(variant=''): return {'v': variant}")
    assert config.load(file, dict) == {"v": ""}
    assert config.load(f"{file}:tiny", dict) == {"v": "tiny"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("x = 1", "defines no recipe()"),
        ("recipe = 3", "defines no recipe()"),
        ("def recipe(variant=''): return 3", "recipe() returned int, not dict"),
        ("def recipe(variant='')\n  pass", "recipe.py:1: SyntaxError"),
        ("\nimport no_such_module", "recipe.py:2: ModuleNotFoundError: No module named"),
        ("from neighbour import x", "'neighbour'; copy neighbour.py beside the recipe, if it"),
        ("def recipe(variant=''):\n  return 1 / 0", "recipe.py:2: ZeroDivisionError"),
        ("def recipe(): return {}", "recipe.py: recipe() must take the variant: def recipe("),
        ("recipe = lambda v: {}[v]", "recipe.py:1: KeyError"),
        ("import operator\nrecipe = operator.neg", "recipe.py: TypeError: bad operand"),
    ],
)
def test_load_errors_name_the_file_and_line(tmp_path, text, message):
    with pytest.raises(UserError) as error:
        config.load(write(tmp_path, text), dict)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_a_relative_recipe_is_named_with_its_line(tmp_path, monkeypatch):
    write(tmp_path, "\ndef recipe(variant=''):\n  return len(3)")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=r"^recipe\.py:3: TypeError: object of type 'int'"):
        config.load("recipe.py", dict)


def test_load_suggests_the_nearest_file(tmp_path):
    file = write(tmp_path, "")
    with pytest.raises(UserError, match=r"did you mean '.*recipe\.py'"):
        config.load(file.replace("recipe", "recipee"), dict)


def test_choose_errors_list_the_variants():
    assert config.choose("", {"": 1, "tiny": 2}) == 1
    with pytest.raises(UserError, match="unknown variant 'tinny'; did you mean 'tiny'"):
        config.choose("tinny", {"": 1, "tiny": 2})
    with pytest.raises(UserError, match=r"unknown variant 'tiny'; this recipe has none$"):
        config.choose("tiny", {"": 1})


@pytest.mark.parametrize("kind", [UserError, ExampleError])
def test_a_message_is_one_printable_line_of_bearable_length(kind):
    name = "caf\xe9\u2028\x1b[31m\0\ud83d" + "x" * 10**5
    message = str(kind(f"0.csv: no column {name!s}\nknown: image"))
    assert message.startswith("0.csv: no column caf\xe9 \\x1b[31m\\x00\\ud83dxxx")
    assert message.endswith("xxx known: image")
    assert " ... " in message
    assert len(message) == config.MOST_CHARACTERS
    assert message.isprintable()


def test_a_whole_number_too_large_for_a_float_is_an_error():
    with pytest.raises(UserError, match=r"shape\.radius: the number is too large"):
        config.decode(Circle, {"type": "circle", "radius": 10**400}, "shape")
