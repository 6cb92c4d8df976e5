"""Recipe fields on the command line."""

from dataclasses import dataclass

import pytest

from tests.test_config import Box, Circle, Picture, Shape, picture
from vljax import config
from vljax.config import UserError
from vljax.overrides import components, override
from vljax.run import Run


def test_values_are_parsed_by_type():
    recipe = override(picture(), ["--scale", "3e-4", "--shapes.b.size=7", "--title", "x"])
    assert recipe == picture(scale=3e-4, title="x", shapes={"a": Circle(), "b": Box(7)})


def test_no_overrides_change_nothing():
    assert override(picture(), []) == picture()


def test_a_component_is_switched_by_name_and_then_set():
    recipe = override(
        picture(shapes={"a": Box(2)}), ["--shapes.a", "circle", "--shapes.a.radius", "4"]
    )
    assert recipe.shapes == {"a": Circle(4.0)}


def test_switching_to_the_same_type_keeps_the_fields():
    recipe = override(picture(), ["--shapes.b", "box"])
    assert recipe.shapes["b"] == Box(2)


def test_switching_keeps_the_fields_that_all_members_share():
    recipe = config.load("configs/siglip_vit_b16.py", Run)
    switched = override(recipe, ["--optim", "lion", "--optim.schedule", "linear"]).optim
    assert type(switched).__name__ == "Lion"
    for name in ("learning_rate", "weight_decay", "decay_rules", "clip_norm"):
        assert getattr(switched, name) == getattr(recipe.optim, name)
    assert switched.schedule.warmup_steps == recipe.optim.schedule.warmup_steps


def test_an_optional_component_can_be_set_and_unset():
    assert override(picture(), ["--background", "circle"]).background == Circle()
    recipe = picture(background=Circle())
    assert override(recipe, ["--background", "none"]).background is None


def test_none_removes_an_entry_of_a_dict():
    assert override(picture(), ["--shapes.b", "none"]).shapes == {"a": Circle()}
    assert override(picture(), ["--shapes.a=none", "--shapes.b", "None"]).shapes == {}
    with pytest.raises(UserError, match=r"unknown field 'shapes\.b\.size'; known: shapes\.a; a"):
        override(picture(), ["--shapes.b", "none", "--shapes.b.size", "3"])


def test_components_lists_paths_and_names():
    assert components(picture()) == {
        "shapes.a": ["box", "circle"],
        "shapes.b": ["box", "circle"],
        "background": ["box", "circle", "none"],
        "frame": ["box", "circle"],
    }
    assert components(Row((Circle(), Circle()))) == {"shapes.N": ["box", "circle"]}


@dataclass(frozen=True)
class Row:
    """A recipe with a sequence of components."""

    shapes: tuple[Shape, ...]


def test_switching_needs_a_value_for_required_fields():
    with pytest.raises(UserError, match=r"shapes\.a: 'box' has no default for 'size'"):
        override(picture(), ["--shapes.a", "box"])


@dataclass(frozen=True)
class Framed(Shape, name="framed"):
    """A component with a required component."""

    inner: Shape
    scales: tuple[float, ...] = (1.0,)


del Shape.members["framed"]


@pytest.fixture
def framed(monkeypatch):
    monkeypatch.setitem(Shape.members, "framed", Framed)


def test_a_plus_adds_an_entry_to_a_dict_with_its_required_fields(framed):
    added = override(picture(), ["--shapes.+c", "box", "--shapes.+c.size", "7", "--title", "x"])
    assert added == picture(title="x", shapes={**picture().shapes, "c": Box(7)})
    args = ["--shapes.+c.inner=circle", "--shapes.+c.inner.radius", "3", "--shapes.+c", "framed"]
    recipe = override(picture(), [*args, "--shapes.+c.scales", "2", "4"])
    assert recipe.shapes["c"] == Framed(Circle(3.0), (2.0, 4.0))


def test_elements_are_added_and_removed_by_the_numbers_of_the_given_recipe():
    row = Row((Circle(1.0), Circle(2.0), Circle(3.0)))
    changed = override(
        row,
        [
            *("--shapes.0", "none", "--shapes.+1", "box", "--shapes.+1.size", "7"),
            *("--shapes.1.radius", "20", "--shapes.+3", "circle", "--shapes.2.radius=30"),
        ],
    )
    assert changed == Row((Box(7), Circle(20.0), Circle(30.0), Circle()))
    assert override(row, ["--shapes.1=none", "--shapes.0", "none"]) == Row((Circle(3.0),))


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--shapes.c", "box"], r"'shapes\.c'; known: shapes\.a, shapes\.b; a \+ before its name"),
        (["--shapes.+c", "bix"], r"shapes\.\+c: unknown shape 'bix'; did you mean 'box'"),
        (["--shapes.+c", "box"], r"shapes\.\+c\.size: has no default; add --shapes\.\+c\.size"),
        (["--shapes.+c", "box", "--shapes.+c.size", "x"], r"shapes\.\+c\.size: 'x' is not a value"),
        (["--shapes.+c", "circle", "--shapes.+c.radios", "3"], r"\+c: unknown field 'radios'; did"),
        (["--shapes.+c.radius", "3"], r"shapes\.\+c: name the component: --shapes\.\+c NAME"),
        (["--shapes.+c"], r"--shapes\.\+c needs a value"),
        (["--shapes.+a", "circle"], r"shapes\.\+a: is there already; replace it with --shapes\.a"),
        (["--scale.+a", "circle"], r"scale\.\+a: scale has no members that can be added"),
        (["--shape.+a", "circle"], r"unknown field 'shape'; did you mean 'shapes'"),
    ],
)
def test_members_that_cannot_be_added_are_named(args, message):
    with pytest.raises(UserError, match=message):
        override(picture(), args)


def test_an_element_past_the_end_cannot_be_added():
    with pytest.raises(UserError, match=r"shapes\.\+3: the number must be 0 to 2"):
        override(Row((Circle(), Circle())), ["--shapes.+3", "circle"])


def test_help_of_a_section_lists_its_fields_alone(capsys):
    for section, own, others in (
        ("shapes.b", "--shapes.b.size", ("--shapes.a.radius", "--scale")),
        ("shapes", "--shapes.a.radius", ("--scale", "--frame")),
    ):
        with pytest.raises(SystemExit) as stop:
            override(picture(), ["--help", section])
        printed = capsys.readouterr().out
        assert stop.value.code == 0
        assert own in printed
        assert f"--{section}" in printed.partition("components, each")[2]
        assert not any(other in printed for other in others)
    with pytest.raises(UserError, match="unknown field 'shaps'; did you mean 'shapes'"):
        override(picture(), ["--help", "shaps"])
    with pytest.raises(UserError, match="--help scale: is a field without fields"):
        override(picture(), ["--help", "scale"])


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--shapes.b.sise", "3"], "unknown field 'shapes.b.sise'; did you mean 'shapes.b.size'?"),
        (["--shapes.c.size", "3"], "unknown field 'shapes.c.size'; known: shapes.a, shapes.b"),
        (["--shapes.b", "boxx"], "shapes.b: unknown shape 'boxx'; did you mean 'box'?"),
        (["--shapes.b"], "--shapes.b needs a name; known: box, circle"),
        (["--scale", "abc"], "Error parsing --scale: could not convert string to float: 'abc'"),
        (["--shapes.b.colour", "blue"], "invalid choice 'blue'"),
        (["--frame", "none"], "frame: cannot be none"),
        (["stray"], "Unrecognized options: stray"),
    ],
)
def test_errors_are_one_line(args, message):
    with pytest.raises(UserError) as error:
        override(picture(), args)
    assert message in str(error.value)
    assert "\n" not in str(error.value)
    assert "│" not in str(error.value)


def test_help_lists_every_field(capsys):
    with pytest.raises(SystemExit) as stop:
        override(picture(), ["--help"], epilog="the end")
    assert stop.value.code == 0
    text = capsys.readouterr().out
    for name in ("--shapes.a.radius", "--shapes.b.size", "--frame.radius", "--threads", "--rules"):
        assert name in text
    assert "  --background {box, circle, none}\n" in text
    assert text.endswith("the end\n")


def test_the_original_recipe_is_unchanged():
    recipe = picture()
    override(recipe, ["--scale", "9"])
    assert recipe == picture()
    assert isinstance(recipe, Picture)
