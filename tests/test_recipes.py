"""Recipes in configs/, and the facade `vljax.recipes` that they import from."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import vljax.inference  # noqa: F401  imports every module that registers components
from vljax import config, recipes
from vljax.config import Component
from vljax.run import Run

RECIPES = sorted((Path(__file__).parents[1] / "configs").glob("*.py"))


def imports_of_vljax(path):
    """The modules of vljax that a file imports from."""
    for node in ast.walk(ast.parse(path.read_text())):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom):
            names = [node.module or ""]
        yield from (name for name in names if name.split(".")[0] == "vljax")


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: path.stem)
def test_recipes_import_from_the_facade_only(recipe):
    assert set(imports_of_vljax(recipe)) == {"vljax.recipes"}


def own_subclasses(cls):
    """All subclasses in modules of vljax: tests and examples in docstrings define others."""
    for subclass in cls.__subclasses__():
        module = sys.modules[subclass.__module__]
        in_module = getattr(module, subclass.__name__, None) is subclass
        if in_module and subclass.__module__.startswith("vljax."):
            yield subclass
        yield from own_subclasses(subclass)


def test_the_facade_has_every_kind_and_every_member():
    missing = {cls.__qualname__ for cls in own_subclasses(Component)} - set(recipes.__all__)
    # Bases that several members share, never written in a recipe.
    bases = {"AnnotatedSource", "FileSource", "PublishedSource"}
    bases |= {"Contrastive", "Probe", "Recurrent", "TextEncoder", "VectorFusion"}
    assert {name for name in missing if not name.startswith("_")} == bases


def test_the_facade_has_every_dataclass_that_a_run_is_made_of():
    for path in RECIPES:
        for where, part in config.walk(config.load(str(path), Run)):
            assert type(part).__name__ in recipes.__all__, f"{path.name}: {where}"


def test_the_facade_lists_everything_that_it_imports():
    tree = ast.parse(Path(recipes.__file__).read_text())
    imports = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    names = {alias.asname or alias.name for node in imports for alias in node.names}
    assert names == set(recipes.__all__)


def test_stored_recipes_are_decoded_where_only_inference_is_imported(tmp_path):
    for path in RECIPES:
        recipe = config.to_json(config.load(str(path), Run))
        (tmp_path / f"{path.stem}.json").write_text(recipe)
    program = (
        "import json, pathlib, sys, vljax.inference\n"
        "from vljax.workdir import decode_recipe\n"
        "for file in pathlib.Path(sys.argv[1]).iterdir():\n"
        "    decode_recipe(json.loads(file.read_text()), file.name)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, tmp_path], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
