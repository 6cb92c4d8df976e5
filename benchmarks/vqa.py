"""The small model that answers questions, over seeds, beside the same model that sees only a part.

    python benchmarks/vqa.py [--seeds 0 1 2] [--blind_seeds 0] [--json PATH] [--RECIPE_FIELD VALUE]

Each run has its own process and a new workdir. `majority` is what the most frequent answer of each
kind of question gets; `question only` and `image only` are trained without the other input. The
evaluated scenes are new ones of the objects that the training scenes show.
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
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
RECIPE = "configs/vqa_cross_attention.py"
MODELS = {"both": "tiny", "question only": "tiny_question", "image only": "tiny_image"}


def run(variant: str, seed: int, overrides: list[str]) -> dict[str, float]:
    """Trains once; returns the final metrics without their prefix, and the seconds it took."""
    with tempfile.TemporaryDirectory() as folder:
        result = Path(folder) / "result.json"
        command = [sys.executable, "train.py", f"{RECIPE}:{variant}", "--seed", str(seed)]
        command += [*overrides, "--workdir", f"{folder}/run", "--json", str(result)]
        begin = time.monotonic()
        finished = subprocess.run(
            command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
        )
        seconds = time.monotonic() - begin
        if finished.returncode:
            raise SystemExit(f"{' '.join(command)} failed:\n{finished.stderr[-2000:]}")
        metrics = json.loads(result.read_text())
    found = {}
    for name, value in metrics.items():
        evaluator, _, rest = name.partition("/")
        if evaluator == "questions":
            # The source's name may have slashes too.
            found[rest.removeprefix("scenes-builtin/train/")] = value
    return {**found, "seconds": seconds}


def summary(runs: list[dict[str, float]]) -> dict[str, dict[str, float]]:
    """Mean and sample standard deviation (0 for one run) of each figure."""
    return {
        name: {
            "mean": statistics.mean(values),
            "deviation": statistics.stdev(values) if len(values) > 1 else 0.0,
        }
        for name in runs[0]
        if (values := [run[name] for run in runs if name in run])
    }


def show(report: dict[str, Any]) -> None:
    """Prints accuracy by kind of question, of each model and of the most frequent answer."""
    models = report["models"]
    full = models["both"]
    kinds = sorted(name for name in full if name.startswith("accuracy/"))
    print(f"\n{'':14}{'questions':>10}{'majority':>10}" + "".join(f"{m:>18}" for m in models))
    for name in ("accuracy", *kinds):
        kind = name.removeprefix("accuracy").lstrip("/")
        suffix = f"/{kind}" if kind else ""
        row = f"{kind or 'all':14}{full[f'questions{suffix}']['mean']:10.0f}"
        row += f"{full[f'majority{suffix}']['mean']:10.1%}"
        for figures in models.values():
            row += f"{figures[name]['mean']:11.1%} ± {figures[name]['deviation']:4.1%}"
        print(row)
    for which, words in (("", "attention"), ("head_", "attention of one head")):
        if f"attention/{which}right" in full:
            right, other = (full[f"attention/{which}{box}"]["mean"] for box in ("right", "other"))
            print(f"{words} peaks in the right object's box: {right:.1%}, another's: {other:.1%}")
    seconds = full["seconds"]
    print(f"seconds: {seconds['mean']:.0f} ± {seconds['deviation']:.0f}")


def main() -> None:
    """Trains all of them and prints a table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="of the model")
    parser.add_argument(
        "--blind_seeds",
        type=int,
        nargs="*",
        default=[0],
        help="of the blind models, if any",
    )
    parser.add_argument("--json", metavar="PATH", help="write the figures; - for standard output")
    options, overrides = parser.parse_known_args()
    runs: dict[str, list[dict[str, float]]] = {}
    for model, variant in MODELS.items():
        for seed in options.seeds if model == "both" else options.blind_seeds:
            found = run(variant, seed, overrides)
            runs.setdefault(model, []).append(found)
            line = f"{model}, seed {seed}: {found['accuracy']:.1%} in {found['seconds']:.0f} s"
            print(line, file=sys.stderr, flush=True)
    report = {
        "machine": f"{platform.machine()}, {os.cpu_count()} CPUs",
        "models": {model: summary(each) for model, each in runs.items()},
    }
    if options.json == "-":
        print(json.dumps(report, indent=2))
        return
    show(report)
    if options.json:
        Path(options.json).write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
