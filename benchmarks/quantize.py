"""Measures size, speed and quality of a checkpoint in each form of exported weights.

    python benchmarks/quantize.py CHECKPOINT [--batch 64] [--rounds 7] [--json PATH]

Each form is exported, loaded from the folder, and measured by the recipe's final evaluators. All
forms are timed in alternation; a speed is the median over the rounds of its ratio to float32.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

# Import from the root instead of from this folder.
sys.path.pop(0)
sys.path.insert(0, str(Path(__file__).parents[1]))

from vljax.data.pipeline.evaluation_set import EvaluationSet
from vljax.inference import Loaded, load
from vljax.interop.convert import export_model
from vljax.models.assembly import example_batch
from vljax.models.numerics import Precision

SHOWN = {
    "T>I R@1": "retrieval/*/text_to_image/recall@1",
    "T>I R@10": "retrieval/*/text_to_image/recall@10",
    "I>T R@1": "retrieval/*/image_to_text/recall@1",
    "I>T R@10": "retrieval/*/image_to_text/recall@10",
    "zero-shot": "zero_shot/*/accuracy@1",
}


class Form(NamedTuple):
    """How weights are stored, and how the model computes."""

    name: str
    dtype: str = "float32"
    quantize: str | None = None
    precision: Precision | None = None
    """None: the precision of the training run."""


FORMS = (
    Form("float32"),
    Form("bfloat16", "bfloat16"),
    Form("bfloat16, computed so", "bfloat16", None, Precision("bfloat16")),
    Form("int8", "float32", "int8"),
    Form("int4", "float32", "int4"),
    Form("int4, rest bfloat16", "bfloat16", "int4"),
    Form("int8-dynamic", "float32", "int8-dynamic"),
)


def prepared(form: Form, checkpoint: str, folder: Path) -> tuple[Loaded, float]:
    """The model in a form, and the megabytes of its weights."""
    out = folder / form.name
    export_model(
        checkpoint,
        str(out),
        "safetensors",
        dtype=form.dtype,
        quantize=form.quantize,
        report=lambda done, total: None,
    )
    size = sum(file.stat().st_size for file in out.glob("*.safetensors"))
    return load(str(out), form.precision), size / 1e6


def quality(loaded: Loaded) -> dict[str, float]:
    """The metrics of the table in percent."""
    metrics: dict[str, float] = {}
    prefixes = loaded.run.evaluator_prefixes()
    for name, evaluator in loaded.run.final_evaluators.items():
        data = EvaluationSet(loaded.run.data, evaluator.source)
        # The recipe's paths may not exist here; these tokenizers are stored with the weights.
        data.tokenizers = loaded.tokenizers
        values = evaluator.measure(loaded.predictor, data)
        metrics |= {f"{prefixes[f'final_evaluators.{name}']}/{k}": v for k, v in values.items()}
    found = {}
    for title, pattern in SHOWN.items():
        first, last = pattern.split("*")
        hits = [v for k, v in metrics.items() if k.startswith(first) and k.endswith(last)]
        if hits:
            found[title] = 100 * hits[0]
    return found


def batches(loaded: Loaded, size: int) -> dict[str, dict[str, np.ndarray]]:
    """Random inputs of both towers."""
    random = np.random.default_rng(0)
    made: dict[str, dict[str, np.ndarray]] = {"image": {}, "text": {}}
    for name, spec in example_batch(loaded.run.model, size).items():
        if spec.dtype == bool:
            array = np.ones(spec.shape, bool)
        else:
            top = 256 if name == "image" else loaded.run.model.encoders["text"].vocab_size
            array = random.integers(0, top, spec.shape).astype(spec.dtype)
        made[name.partition("_")[0]][name] = array
    return made


def seconds(call: Callable[[], Any]) -> float:
    """The seconds of one call."""
    begin = time.perf_counter()
    jax.block_until_ready(call())
    return time.perf_counter() - begin


def speeds(models: Mapping[str, Loaded], size: int, rounds: int) -> dict[str, dict[str, float]]:
    """Examples per second of each tower, and the median of the ratio to the first model."""
    inputs = batches(next(iter(models.values())), size)
    found: dict[str, dict[str, float]] = {name: {} for name in models}
    for tower, batch in inputs.items():
        want = [f"{tower}/embedding"]
        times: dict[str, list[float]] = {name: [] for name in models}
        for i in range(rounds + 1):
            for name, model in models.items():
                taken = seconds(lambda model=model: model.predictor.run(want, batch))  # noqa: B023
                if i:  # the first call compiles
                    times[name].append(taken)
        first = next(iter(times.values()))
        for name, taken in times.items():
            ratios = [a / b for a, b in zip(first, taken, strict=True)]
            found[name][f"{tower}s/s"] = size / statistics.median(taken)
            found[name][f"{tower}s, x"] = statistics.median(ratios)
    return found


def main() -> None:
    """Prints a table with a row for each form; quality is the difference to the first row."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("checkpoint", metavar="CHECKPOINT")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--json", metavar="PATH", help="write the numbers as JSON too")
    args = parser.parse_args()
    models: dict[str, Loaded] = {}
    rows: dict[str, dict[str, float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for form in FORMS:
            models[form.name], size = prepared(form, args.checkpoint, Path(folder))
            rows[form.name] = {"MB": size}
    for name, measured in speeds(models, args.batch, args.rounds).items():
        rows[name] |= measured
    for name, model in models.items():
        rows[name] |= quality(model)
    device = f"{jax.devices()[0].device_kind}, {platform.machine()}, {os.cpu_count()} cores"
    print(f"{args.checkpoint}, step {models['float32'].step}; {device}; batch {args.batch}")
    print_table(rows)
    if args.json:
        Path(args.json).write_text(json.dumps(rows, indent=2) + "\n")


def print_table(rows: Mapping[str, Mapping[str, float]]) -> None:
    """Prints Markdown: percent in the first row, percentage points of difference below."""
    reference = next(iter(rows.values()))
    print("| weights | " + " | ".join(reference) + " |")
    print("|---|" + "--:|" * len(reference))
    for name, row in rows.items():
        cells = []
        for title, value in row.items():
            if title in SHOWN:
                shown = value if row is reference else value - reference[title]
                cells.append(f"{shown:.2f}" if row is reference else f"{shown:+.2f}")
            else:
                cells.append(
                    f"{value:.2f}" if title == "MB" or title.endswith("x") else f"{value:.0f}"
                )
        print(f"| {name} | " + " | ".join(cells) + " |")


if __name__ == "__main__":
    main()
