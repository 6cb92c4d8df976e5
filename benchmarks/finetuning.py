"""Fine-tuning compared: all parameters, low-rank factors, and locked towers; and WiSE-FT's curve.

    python benchmarks/finetuning.py --base runs/clip_scenes [--seeds 0 1 2] [--steps N]
    python benchmarks/finetuning.py --base runs/clip_scenes --curve docs/wise_ft.png

The base is a CLIP trained on composed scenes and clip art; if the folder does not exist, it is made
first by `configs/clip_scenes.py`. Each way trains it further by `vljax finetune` on the built-in
training split, with the same examples for a seed. Old data are new scenes of the test split's
objects, new data the built-in test split. Each run has its own process and a new workdir.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
RECIPE = "configs/clip_scenes.py"
WAYS = {
    "locked towers": ["--optim.learning_rate", "3e-3", "--optim.frozen", "image/.*", "text/.*"],
    "low-rank factors": ["--lora", "6", "--optim.learning_rate", "3e-3"],
    "all parameters": ["--optim.learning_rate", "5e-4"],
}
"""The options of `vljax finetune`. The learning rates are first guesses; they are not tuned."""
RECALL = "retrieval/text_to_image/recall@10"
ALPHAS = (0.0, 0.2, 0.4, 0.5, 0.6, 0.8, 1.0)


def call(*words: str | Path) -> None:
    """Runs a command of vljax in a process of its own."""
    command = [sys.executable, "-m", "vljax.commands.main", *map(str, words)]
    finished = subprocess.run(
        command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )
    if finished.returncode:
        raise SystemExit(f"{' '.join(command)} failed:\n{finished.stderr[-2000:]}")


def finetune(base: Path, workdir: Path, way: str, seed: int, steps: int) -> int:
    """Fine-tunes the base in one way; returns the number of trained parameters."""
    options = ["--steps", str(steps), "--global_batch", "128", "--seed", str(seed), *WAYS[way]]
    options += ["--evaluate_first", "False", "--optim.weight_decay", "0.1"]
    call("finetune", base, "--data", "builtin:train", "--workdir", workdir, *options)
    about = workdir.with_suffix(".json")
    call("check", workdir / "recipe.json", "--records", "0", "--json", about)
    found: int = json.loads(about.read_text())["trained_parameters"]
    return found


def measure(model: Path) -> dict[str, float]:
    """Text-to-image recall@10 on new and old data."""
    sys.path.insert(0, str(ROOT / "configs"))
    from clip_scenes import scenes

    import vljax
    from vljax.recipes import Builtin

    loaded = vljax.load(model)
    return {
        "new": loaded.evaluate(Builtin("test"), "retrieval")[RECALL],
        "old": loaded.evaluate(scenes("test", 500), "retrieval")[RECALL],
    }


def compare(base: Path, seeds: list[int], steps: int) -> dict[str, Any]:
    """Way -> trained parameters, and the recalls of each seed; the base as a way of its own."""
    found: dict[str, Any] = {"the base": {"trained": 0, "runs": [measure(base)]}}
    for way in WAYS:
        runs, trained = [], 0
        for seed in seeds:
            with tempfile.TemporaryDirectory() as folder:
                workdir = Path(folder) / "run"
                trained = finetune(base, workdir, way, seed, steps)
                runs.append(measure(workdir))
            print(way, seed, runs[-1], file=sys.stderr)
        found[way] = {"trained": trained, "runs": runs}
    return found


def curve(base: Path, steps: int, plot: Path) -> list[dict[str, float]]:
    """The recalls of models between the base and a fine-tuned one (seed 0), drawn to a file."""
    points = []
    with tempfile.TemporaryDirectory() as folder:
        workdir = Path(folder) / "run"
        finetune(base, workdir, "all parameters", 0, steps)
        for alpha in ALPHAS:
            between = Path(folder) / f"{alpha}"
            call("interpolate", base, workdir, between, "--alpha", str(alpha))
            points.append({"alpha": alpha, **measure(between)})
            print(points[-1], file=sys.stderr)
    draw(points, plot)
    return points


def draw(points: list[dict[str, float]], plot: Path) -> None:
    """New data against old data, a point for each alpha."""
    from vljax import charts

    figure = charts.new_figure(5.5, 4.0)
    axes = figure.subplots()
    old, new = ([100 * point[name] for point in points] for name in ("old", "new"))
    axes.plot(old, new, color=charts.BLUE, marker="o", linewidth=1.5)
    for x, y, point in zip(old, new, points, strict=True):
        axes.annotate(f"{point['alpha']:g}", (x, y), (6, 4), textcoords="offset points")
    axes.set_xlabel("old data: composed scenes, recall@10, %")
    axes.set_ylabel("new data: built-in pictures, recall@10, %")
    axes.set_title("Weights between the base (0) and the fine-tuned model (1)", fontsize=10)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(color=charts.LINE)
    charts.save(figure, plot)


def main() -> None:
    """Prints the table, or the points of the curve."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--base", type=Path, required=True, help="workdir; made if absent")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--steps", type=int, default=120)
    parser.add_argument("--curve", type=Path, metavar="PNG", help="draw WiSE-FT's curve instead")
    parser.add_argument("--json", metavar="PATH", help="write the numbers as JSON too")
    asked = parser.parse_args()
    if not asked.base.exists():
        call("train", RECIPE, "--workdir", asked.base)
    print(f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}")
    if asked.curve is not None:
        result: Any = curve(asked.base, asked.steps, asked.curve)
        for point in result:
            print(f"alpha {point['alpha']:g}: new {point['new']:.1%}, old {point['old']:.1%}")
    else:
        result = compare(asked.base, asked.seeds, asked.steps)
        print(f"{'':18} {'trained':>10}   new data (runs)             old data (runs)")
        for way, about in result.items():
            cells = []
            for name in ("new", "old"):
                values = [100 * run[name] for run in about["runs"]]
                spread = statistics.stdev(values) if len(values) > 1 else 0.0
                each = " ".join(f"{value:.1f}" for value in values)
                cells.append(f"{statistics.mean(values):.1f} +- {spread:.1f} ({each})")
            print(f"{way:18} {about['trained']:10,}   {cells[0]:27} {cells[1]}")
    if asked.json:
        Path(asked.json).write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
