import subprocess
import sys
from pathlib import Path

import pytest

from vljax import config
from vljax.run import Run

RECIPES = sorted((Path(__file__).parents[1] / "configs").glob("*.py"))


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: path.stem)
def test_a_stored_recipe_is_read_where_only_inference_is_loaded(recipe, tmp_path):
    file = tmp_path / "recipe.json"
    file.write_text(config.to_json(config.load(str(recipe), Run)))
    program = (
        "import json, sys, vljax.inference\n"
        "from vljax.workdir import decode_recipe\n"
        "decode_recipe(json.load(open(sys.argv[1])), 'recipe.json')\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, file], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
