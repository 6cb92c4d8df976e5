"""Plots are written for the logged metrics, are readable PNG files, and show the right data."""

import math
import sys

import numpy as np
import pytest
from PIL import Image

from vljax.charts import BLUE, GREEN, GREY, ORANGE, save
from vljax.data.sources import JsonLines
from vljax.evaluation import plots
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
    """The fraction of a picture's pixels that have a colour."""
    rgb = [int(colour[i : i + 2], 16) for i in (1, 3, 5)]
    return np.mean((np.abs(read(path).astype(int) - rgb) < 3).all(axis=-1))


def test_a_run_has_one_plot_for_each_quantity(tmp_path):
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


def test_evaluations_of_two_files_are_two_plots(tmp_path, drawn):
    prefixes = [
        f"retrieval/{JsonLines(f'{name}.jsonl').dataset}/all" for name in ("val", "my test")
    ]
    rows = [row for prefix in prefixes for row in recall_rows([1, 2], prefix)]
    names = [path.name for path in plot_run(rows, tmp_path)]
    assert sorted(names) == ["recall_my_test_all.png", "recall_val_all.png"]
    assert drawn["recall_val_all"].get_suptitle() == "Retrieval on val (dotted: chance)"


def test_two_evaluators_of_one_data_set_are_two_plots(tmp_path, drawn):
    rows = [r for name in ("short", "long") for r in recall_rows([1, 2], f"{name}/builtin/test")]
    names = [path.name for path in plot_run(rows, tmp_path)]
    assert sorted(names) == ["recall_long_builtin_test.png", "recall_short_builtin_test.png"]
    title = drawn["recall_long_builtin_test"].get_suptitle()
    assert title == "Retrieval (long) on builtin, test split (dotted: chance)"


def test_only_logged_metrics_are_drawn(tmp_path):
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
def test_recall_of_one_direction_without_chance_is_drawn(tmp_path):
    rows = [{"step": 1, "retrieval/$a_$/x/text_to_image/recall@10": 0.25}]
    (path,) = plot_run(rows, tmp_path)
    assert share(path, BLUE) > 1e-5


@pytest.fixture
def drawn(monkeypatch):
    """The figures that are saved, by the name of their file."""
    figures = {}

    def keep(figure, path):
        figures[path.stem] = figure
        return save(figure, path)

    monkeypatch.setattr("vljax.evaluation.plots.save", keep)
    return figures


def points(line):
    return list(zip(line.get_xdata().tolist(), line.get_ydata().tolist(), strict=True))


def test_the_loss_is_drawn_as_logged_and_smoothed(tmp_path, drawn):
    losses = np.random.default_rng(0).uniform(1, 2, 100)
    plot_run([{"step": 5 + i, "loss": loss} for i, loss in enumerate(losses)], tmp_path)
    (axes,) = drawn["loss"].axes
    logged, mean = axes.lines
    assert points(logged) == list(zip(range(5, 105), losses, strict=True))
    assert points(mean) == list(zip(range(5, 105), smooth(losses), strict=True))
    assert [line.get_color() for line in axes.lines] == [GREY, BLUE]
    assert axes.get_xlim()[0] == 0
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("training step", "loss")


def test_the_learning_rate_is_drawn_from_0(tmp_path, drawn):
    plot_run([{"step": step, "learning_rate": 1e-3 + step * 1e-6} for step in (7, 9)], tmp_path)
    (axes,) = drawn["learning_rate"].axes
    assert points(axes.lines[0]) == [(7, 1e-3 + 7e-6), (9, 1e-3 + 9e-6)]
    assert (axes.get_xlim()[0], axes.get_ylim()[0]) == (0, 0)


@pytest.mark.parametrize(("steps", "marker"), [([3], "o"), ([3, 4], "")])
def test_a_single_point_has_a_marker(tmp_path, drawn, steps, marker):
    plot_run([{"step": step, "loss": 1.0, "learning_rate": 1.0} for step in steps], tmp_path)
    for name in ("loss", "learning_rate"):
        assert drawn[name].axes[0].lines[0].get_marker() == marker


def test_recall_is_drawn_in_percent_by_direction_and_k(tmp_path, drawn):
    prefix, ks = "retrieval/builtin/test", (1, 5, 10, 20)
    to_image = {k: f"{prefix}/text_to_image/recall@{k}" for k in ks}
    to_text = {k: f"{prefix}/image_to_text/recall@{k}" for k in ks}
    rows = [
        {"step": 10}
        | {to_image[k]: k / 32 for k in ks}
        | {f"{to_image[k]}_chance": 0.5 for k in ks},
        {"step": 20}
        | {to_text[k]: k / 64 for k in ks}
        | {f"{to_text[k]}_chance": k / 256 for k in ks},
        {"step": 40}
        | {to_image[k]: k / 64 for k in ks}
        | {f"{to_image[k]}_chance": k / 128 for k in ks},
    ]
    plot_run(rows, tmp_path)
    figure = drawn["recall_builtin_test"]
    assert figure.get_suptitle() == "Retrieval on builtin, test split (dotted: chance)"
    left, right = figure.axes
    assert (left.get_title(), right.get_title()) == ("Text to image", "Image to text")
    assert left.get_ylabel() == "recall (%)"
    for i, k in enumerate(ks):
        curve, chance = left.lines[2 * i : 2 * i + 2]
        assert points(curve) == [(10, k / 0.32), (40, k / 0.64)]
        assert list(chance.get_ydata()) == [k / 1.28] * 2  # the last value
        assert curve.get_label() == f"recall@{k}"
        colour = (BLUE, ORANGE, GREEN, BLUE)[i]
        assert curve.get_color() == chance.get_color() == colour
        curve, chance = right.lines[2 * i : 2 * i + 2]
        assert points(curve) == [(20, k / 0.64)]
        assert list(chance.get_ydata()) == [k / 2.56] * 2
    # Both panels have room for all points: 62.5 % at step 10, and step 40, are on the left alone.
    assert left.get_xlim() == right.get_xlim() == (0, pytest.approx(42))
    assert left.get_ylim() == right.get_ylim() == pytest.approx((-0.02 * 68.75, 68.75))


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(("recall", "top"), [(0.0, 1.0), (0.5, 55.0), (1.0, 103.0)])
def test_recall_has_room_from_0_to_100_percent(tmp_path, drawn, recall, top):
    plot_run([{"step": 1, "retrieval/a/b/text_to_image/recall@1": recall}], tmp_path)
    assert drawn["recall_a_b"].axes[0].get_ylim()[1] == pytest.approx(top)


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
        "import sys, vljax.charts, vljax.evaluation.plots, vljax.evaluation.retrieval_grid;"
        "print([m for m in ('matplotlib', 'torch', 'tensorflow') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_every_evaluation_has_a_curve_of_what_it_names(tmp_path, monkeypatch):
    drawn = {}

    def keep(figure, path):
        drawn[path.name] = figure
        return path

    monkeypatch.setattr(plots, "save", keep)
    name = "zero/pets/val/accuracy@1"
    rows = [{"step": step, name: step / 30, f"{name}_chance": 0.2} for step in (10, 20)]
    rows.append({"step": 20, "retrieval/pets/val/text_to_image/recall@1": 0.5})
    headlines = {
        "zero/pets/val": ("accuracy@1", "accuracy@5"),
        "retrieval/pets/val": ("text_to_image/recall@1",),
        "questions/pets/val": ("accuracy",),
    }
    plot_run(rows, tmp_path, headlines)
    assert sorted(drawn) == ["recall_pets_val.png", "zero_pets_val.png"]
    (axes,) = drawn["zero_pets_val.png"].axes
    curve, chance = axes.get_lines()
    np.testing.assert_allclose(curve.get_xydata(), [[10, 1 / 3], [20, 2 / 3]])
    assert set(chance.get_ydata()) == {0.2}
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["accuracy@1"]
