"""Plots of a run over its steps: loss, learning rate, evaluations."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float, Int

from vljax.charts import BLUE, GREEN, GREY, ORANGE, new_figure, save

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Row = Mapping[str, Any]
RECALL = re.compile(
    r"(?P<prefix>[^/]+/[^/]+/[^/]+)/(?P<way>text_to_image|image_to_text)/recall@(?P<k>\d+)"
)
WAYS = {"text_to_image": "Text to image", "image_to_text": "Image to text"}
STYLES = ((BLUE, "o"), (ORANGE, "s"), (GREEN, "^"))


def plot_run(
    metrics: Sequence[Row],
    directory: str | Path,
    headlines: Mapping[str, Sequence[str]] | None = None,
) -> list[Path]:
    """Draws the metrics of a run over its steps as PNG files.

    Args:
      metrics: rows of `metrics.jsonl`, each with `step` and values by name. Of two rows with the
        same step and name, the later one counts.
      directory: the folder to write to; made if needed.
      headlines: the metrics of each evaluation to draw, by its prefix
        `EVALUATOR/DATASET/SPLIT`; those with recall are drawn anyway.

    Returns:
      The files with data to show: `loss.png`, `learning_rate.png`, `recall_DATASET_SPLIT.png` for
      each evaluation with recall (`recall_EVALUATOR_DATASET_SPLIT.png` if it is not `retrieval`),
      and `EVALUATOR_DATASET_SPLIT.png` for each other one.
    """
    directory = Path(directory)
    written = []
    if len(series(metrics, "loss")[0]):
        written.append(_plot_loss(metrics, directory / "loss.png"))
    if len(series(metrics, "learning_rate")[0]):
        written.append(_plot_learning_rate(metrics, directory / "learning_rate.png"))
    for prefix, recalls in _recalls(metrics).items():
        name = "recall_" + prefix.removeprefix("retrieval/").replace("/", "_") + ".png"
        written.append(_plot_recall(metrics, prefix, recalls, directory / name))
    for prefix, names in (headlines or {}).items():
        shown = [name for name in names if len(series(metrics, f"{prefix}/{name}")[0])]
        if shown and not any(RECALL.fullmatch(f"{prefix}/{name}") for name in shown):
            path = directory / f"{prefix.replace('/', '_')}.png"
            written.append(_plot_headlines(metrics, prefix, shown, path))
    return written


def series(
    metrics: Sequence[Row], name: str
) -> tuple[Int[np.ndarray, " points"], Float[np.ndarray, " points"]]:
    """The finite values of a metric, with their steps in order.

    >>> steps, values = series([{"step": 2, "loss": 0.5}, {"step": 1, "loss": 1.0}], "loss")
    >>> steps.tolist(), values.tolist()
    ([1, 2], [1.0, 0.5])
    """
    points = {
        int(row["step"]): float(row[name])
        for row in metrics
        if row.get(name) is not None and np.isfinite(row[name])
    }
    steps = sorted(points)
    return np.array(steps, np.int64), np.array([points[step] for step in steps], np.float64)


def smooth(values: Float[np.ndarray, " points"]) -> Float[np.ndarray, " points"]:
    """The centred moving mean over a twentieth of all points; the window is cut at both ends."""
    window = np.ones(len(values) // 40 * 2 + 1)
    weights = np.convolve(np.ones_like(values), window, mode="same")
    return np.convolve(values, window, mode="same") / weights


def _plot_loss(metrics: Sequence[Row], path: Path) -> Path:
    figure = new_figure(7.0, 4.0)
    axes = _axes(figure.subplots(), "Training loss", "loss")
    steps, losses = series(metrics, "loss")
    axes.plot(steps, losses, color=GREY, linewidth=0.8, marker=_marker(steps), label="logged")
    axes.plot(steps, smooth(losses), color=BLUE, linewidth=2, label="mean of a twentieth of them")
    axes.set_xlim(left=0)
    axes.legend(frameon=False)
    return save(figure, path)


def _plot_learning_rate(metrics: Sequence[Row], path: Path) -> Path:
    figure = new_figure(7.0, 3.0)
    axes = _axes(figure.subplots(), "Learning rate", "learning rate")
    steps, rates = series(metrics, "learning_rate")
    axes.plot(steps, rates, color=BLUE, linewidth=2, marker=_marker(steps))
    axes.ticklabel_format(axis="y", style="sci", scilimits=(-2, 2), useMathText=True)
    axes.set_xlim(left=0)
    axes.set_ylim(bottom=0)
    return save(figure, path)


def _recalls(metrics: Sequence[Row]) -> dict[str, set[int]]:
    """The values of k by the prefix of each evaluation that measured recall."""
    found: dict[str, set[int]] = {}
    for match in map(RECALL.fullmatch, sorted({name for row in metrics for name in row})):
        if match and len(series(metrics, match[0])[0]):
            found.setdefault(match["prefix"], set()).add(int(match["k"]))
    return found


def _plot_recall(metrics: Sequence[Row], prefix: str, recalls: set[int], path: Path) -> Path:
    figure = new_figure(10.0, 4.0)
    panels = figure.subplots(1, 2, sharex=True, sharey=True)
    evaluator, dataset, split = prefix.split("/")
    name = "" if evaluator == "retrieval" else f" ({evaluator})"
    part = "" if split == "all" else f", {split} split"
    figure.suptitle(f"Retrieval{name} on {dataset}{part} (dotted: chance)", parse_math=False)
    highest, last = 0.0, 1
    for panel, (way, title) in zip(panels, WAYS.items(), strict=True):
        axes = _axes(panel, title, "recall (%)" if panel is panels[0] else "")
        for i, k in enumerate(sorted(recalls)):
            colour, marker = STYLES[i % len(STYLES)]
            name = f"{prefix}/{way}/recall@{k}"
            steps, values = series(metrics, name)
            axes.plot(steps, 100 * values, color=colour, marker=marker, label=f"recall@{k}")
            _, chance = series(metrics, f"{name}_chance")
            if len(chance):
                axes.axhline(100 * chance[-1], color=colour, linestyle=":")
            highest = max(highest, 100 * np.max([*values, *chance], initial=0.0))
            last = max(last, int(np.max(steps, initial=1)))
    # Room for the markers on the edges; both panels have the same axes.
    top = min(max(1.1 * highest, 1.0), 103.0)
    panels[0].set(xlim=(0, 1.05 * last), ylim=(-0.02 * top, top))
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside right center", frameon=False)
    return save(figure, path)


def _plot_headlines(metrics: Sequence[Row], prefix: str, names: Sequence[str], path: Path) -> Path:
    evaluator, _, data = prefix.partition("/")
    figure = new_figure(7.0, 4.0)
    axes = _axes(figure.subplots(), "", "")
    axes.set_title(f"{evaluator} on {data} (dotted: chance)", parse_math=False)
    last = 1
    for i, name in enumerate(names):
        colour, marker = STYLES[i % len(STYLES)]
        steps, values = series(metrics, f"{prefix}/{name}")
        axes.plot(steps, values, color=colour, marker=marker, label=name)
        _, chance = series(metrics, f"{prefix}/{name}_chance")
        if len(chance):
            axes.axhline(chance[-1], color=colour, linestyle=":")
        last = max(last, int(steps.max()))
    axes.set_xlim(0, 1.05 * last)
    axes.legend(frameon=False)
    return save(figure, path)


def _marker(steps: Int[np.ndarray, " points"]) -> str:
    """A marker for a single point, which would draw no line."""
    return "o" if len(steps) == 1 else ""


def _axes(axes: Axes, title: str, quantity: str) -> Axes:
    from matplotlib.ticker import MaxNLocator

    axes.set_title(title)
    axes.set_xlabel("training step")
    axes.set_ylabel(quantity)
    axes.xaxis.set_major_locator(
        MaxNLocator(nbins=8, steps=[1, 2, 5, 10], integer=True, min_n_ticks=1)
    )
    axes.grid(color="#DDDDDD", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    return axes
