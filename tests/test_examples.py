"""Examples in docstrings: all of them run, and every class that a recipe uses has one."""

import doctest
import importlib
from pathlib import Path

import pytest

from vljax import recipes
from vljax.config import Component

ROOT = Path(__file__).parents[1]
FLAGS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
MODULES = sorted(
    str(path.relative_to(ROOT).with_suffix("")).replace("/", ".").removesuffix(".__init__")
    for path in (ROOT / "vljax").rglob("*.py")
    if ">>> " in path.read_text()
)


@pytest.mark.parametrize("name", MODULES)
def test_the_examples_of_a_module_run(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # an example may write files
    result = doctest.testmod(importlib.import_module(name), optionflags=FLAGS)
    assert result.failed == 0
    assert result.attempted > 0


# A kind cannot be constructed: its members have the examples.
NAMES = [
    name
    for name in recipes.__all__
    if callable(value := getattr(recipes, name))
    and Component not in getattr(value, "__bases__", ())
]


@pytest.mark.parametrize("name", NAMES)
def test_recipe_classes_have_an_example(name):
    assert ">>> " in (getattr(recipes, name).__doc__ or "")
