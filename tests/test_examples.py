"""The examples in docstrings run, and everything that a recipe is written with has one."""

import doctest
import importlib
from pathlib import Path

import pytest

from vljax import recipes

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


@pytest.mark.parametrize("name", [n for n in recipes.__all__ if callable(getattr(recipes, n))])
def test_what_a_recipe_is_written_with_has_an_example(name):
    assert ">>> " in (getattr(recipes, name).__doc__ or "")
