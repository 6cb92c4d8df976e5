"""The flags in docs/coming_from_open_clip.md are fields of the recipe that it names."""

import re
import shlex
from pathlib import Path

import pytest

from vljax import config
from vljax.commands.recipe_arguments import load_run
from vljax.models.parameters import unrolled_shapes
from vljax.run import Run, prepare

PAGE = Path(__file__).parents[2] / "docs" / "coming_from_open_clip.md"
RECIPE = "configs/clip_vit_b16.py"


def counterparts():
    """What stands in the second column as code with flags."""
    for row in PAGE.read_text().splitlines():
        cells = re.split(r"(?<!\\)\|", row)[1:-1]
        code = re.match(r"`(--[^`]+)`", cells[1].strip()) if len(cells) == 2 else None
        if code:
            yield code[1].replace(r"\|", "|")


FLAGS = list(counterparts())


def test_the_page_has_its_rows():
    assert len(FLAGS) > 30


@pytest.mark.parametrize("flags", FLAGS)
def test_the_recipe_takes_the_flags(flags):
    run = load_run([RECIPE, *shlex.split(flags)], "vljax train")
    # All but a few are other values than those of the recipe.
    assert run != config.load(RECIPE, Run)


def test_the_pattern_of_locked_blocks_leaves_the_last_two():
    (flags,) = (each for each in FLAGS if "blocks" in each)
    pattern = re.compile(shlex.split(flags)[1])
    shapes = prepare(config.load(RECIPE, Run)).shapes.params
    free = [name for name in unrolled_shapes(shapes) if not pattern.fullmatch(name)]
    free = [name for name in free if name.startswith("image/")]
    assert {name.split("/")[1] for name in free} == {"blocks", "norm"}
    assert {name.split("/")[2] for name in free if "blocks" in name} == {"10", "11"}
