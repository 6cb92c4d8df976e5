"""The fusion that docs/extending.md shows: one file, trained by the command line's options."""

import dataclasses
from pathlib import Path

import jax
import numpy as np
import pytest

from tests.test_fusions import shortened
from vljax.inference import load
from vljax.launch import train
from vljax.models.node import Node
from vljax.overrides import override
from vljax.run import prepare

GUIDE = Path(__file__).parents[2] / "docs/extending.md"
OPTIONS = "--model.nodes.fusion difference --model.nodes.fusion.streams image question"


@pytest.fixture
def difference(tmp_path, monkeypatch):
    """Runs the guide's code as a module."""
    _, _, rest = GUIDE.read_text().partition("## A fusion of your own")
    code = rest.split("```python\n")[1].split("```")[0]
    (tmp_path / "difference.py").write_text(code)
    monkeypatch.syspath_prepend(tmp_path)
    import difference

    yield difference.Difference
    del Node.members["difference"]


def test_the_fusion_of_the_guide_trains(difference, tmp_path):
    run = shortened("early_concat.py:tiny", str(tmp_path / "run"))
    run = override(run, f"{OPTIONS} --model.nodes.fusion.width 24".split(), "early_concat.py")
    assert isinstance(run.model.nodes["fusion"], difference)
    before = prepare(run, jax.devices()[:1])
    kernel = before.shapes.params["fusion"]["image"]["kernel"]
    assert kernel.shape == (96, 24)
    finished = train(run)
    assert np.isfinite(finished.metrics["questions/scenes-builtin/train/accuracy"])
    answers = load(str(tmp_path / "run")).answer(image_of(run), "Is there a cat?")
    assert len(answers) == 5
    bad = dataclasses.replace(run.model.nodes["fusion"], streams=("image",))
    assert [field for field, _ in bad.problems()] == ["streams"]


def image_of(run):
    return run.final_evaluators["questions"].source.source.open().image(0)
