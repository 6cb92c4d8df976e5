"""Pictures are written for the numbers there are, can be read, and show what they should."""

import math
import sys

import numpy as np
import pytest
from PIL import Image

from vljax.evaluation.figures import BLUE
from vljax.evaluation.plots import plot_run, series, smooth


def recall_rows(steps, prefix="retrieval/builtin/validation", value=0.5):
    names = [f"{way}/recall@{k}" for way in ("text_to_image", "image_to_text") for k in (1, 5, 10)]
    return [
        {"step": step}
        | {f"{prefix}/{name}": value for name in names}
        | {f"{prefix}/{name}_chance": 0.1 for name in names}
        for step in steps
    ]


def read(path):
    with Image.open(path) as image:
        image.load()
        assert image.format == "PNG"
        return np.asarray(image.convert("RGB"))


def share(path, colour):
    """How much of a picture has a colour."""
    rgb = [int(colour[i : i + 2], 16) for i in (1, 3, 5)]
    return np.mean((np.abs(read(path).astype(int) - rgb) < 3).all(axis=-1))


def test_a_run_gives_one_picture_for_each_quantity(tmp_path):
    rows = [{"step": s, "loss": 4 / s, "learning_rate": s * 1e-5} for s in range(1, 50)]
    rows += recall_rows([10, 20]) + recall_rows([50], "retrieval/builtin/test")
    rows += recall_rows([50], "other/builtin/test")
    written = plot_run(rows, tmp_path / "new" / "plots")
    assert sorted(path.name for path in written) == [
        "learning_rate.png",
        "loss.png",
        "recall_builtin_test.png",
        "recall_builtin_validation.png",
        "recall_other_builtin_test.png",
    ]
    for path in written:
        picture = read(path)
        assert min(picture.shape[:2]) > 200
        assert share(path, BLUE) > 1e-4


def test_only_what_was_measured_is_drawn(tmp_path):
    assert plot_run([], tmp_path) == []
    assert plot_run([{"step": 1, "examples_per_second": 3.0}], tmp_path) == []
    assert plot_run([{"step": 1, "loss": math.nan}], tmp_path) == []
    assert list(tmp_path.iterdir()) == []
    assert [path.name for path in plot_run([{"step": 1, "loss": 2}], tmp_path)] == ["loss.png"]


@pytest.mark.parametrize("value", [0.0, 1.0])
@pytest.mark.parametrize("steps", [[0], [7], [1, 2, 3]])
@pytest.mark.filterwarnings("error")
def test_constant_numbers_are_drawn(tmp_path, steps, value):
    rows = [{"step": step, "loss": value, "learning_rate": value} for step in steps]
    written = plot_run(rows + recall_rows(steps, value=value), tmp_path)
    assert len(written) == 3
    for path in written:
        read(path)


@pytest.mark.filterwarnings("error")
def test_one_direction_and_no_chance_are_enough(tmp_path):
    rows = [{"step": 1, "retrieval/$a_b$/x/text_to_image/recall@10": 0.25}]
    (path,) = plot_run(rows, tmp_path)
    assert share(path, BLUE) > 1e-5


def test_series_is_in_order_with_the_last_row_of_a_step():
    rows = [
        {"step": 3, "loss": 3.0},
        {"step": 1, "loss": 9.0},
        {"step": 2, "loss": math.inf},
        {"step": 4, "loss": None},
        {"step": 1, "loss": 1.0, "other": 5.0},
        {"step": 5},
    ]
    steps, values = series(rows, "loss")
    assert (steps.tolist(), values.tolist()) == ([1, 3], [1.0, 3.0])


def test_smoothing_is_a_centred_mean():
    values = np.random.default_rng(0).normal(size=100)
    smoothed = smooth(values)
    assert len(smoothed) == 100
    assert smoothed[50] == pytest.approx(values[48:53].mean())
    assert smoothed[0] == pytest.approx(values[:3].mean())
    np.testing.assert_allclose(smooth(np.full(100, 2.5)), 2.5)
    assert smooth(np.array([3.0])).tolist() == [3.0]


def test_matplotlib_is_loaded_only_to_draw():
    import subprocess

    code = (
        "import sys, vljax.evaluation.plots, vljax.evaluation.retrieval_grid;"
        "print([m for m in ('matplotlib', 'jax', 'torch', 'tensorflow') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
