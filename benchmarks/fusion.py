"""All fusions compared on questions about composed scenes, over seeds.

    python benchmarks/fusion.py [--only NAME ...] [--seeds 0 1 2] [--out runs/fusion]
        [--kinds] [--easy_vqa DIR] [--table DOCUMENT] [--json PATH]
        [--RECIPE_FIELD VALUE ...]

Each fusion is trained by the `:tiny` variant of its recipe: the same examples in the same order,
the same optimizer, and parameters equal within 5 %. Beside them stand the model without the image,
without the question, and what the most frequent answer of each kind of question gets. The scenes
that are evaluated are new ones of the objects that the training scenes show.

Each run has its own process, and its result a file in `--out`: started again, the command goes on
with what is missing. A step's time is the median over a run; compare it only with others of a quiet
machine. FLOPs are those of the matrix products and convolutions of a step (forward and backward).
`--easy_vqa DIR` trains the same fusions on easy-vqa (`configs/easy_vqa.py`) instead.
`--table` writes the table into a document, between the two comments that mark its place.
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
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).parents[1]


class Case(NamedTuple):
    """A model of the table."""

    recipe: str
    """File in configs/ and variant."""
    options: tuple[str, ...] = ()
    """Overrides of the recipe."""


CASES = {
    "question only": Case("vqa_cross_attention.py:tiny_question"),
    "image only": Case("vqa_cross_attention.py:tiny_image"),
    "cross-attention, told where to look": Case("vqa_cross_attention.py:tiny"),
    # Without the loss that points the attention to the right object, which others cannot have.
    "cross-attention": Case("vqa_cross_attention.py:tiny", ("--objectives.look", "none")),
    "co-attention": Case("vqa_co_attention.py:tiny"),
    "gated cross-attention": Case("gated_cross_attention.py:tiny"),
    "Q-Former": Case("q_former_vqa.py:tiny"),
    "single stream of patches": Case("vilt.py:tiny"),
    "single stream of features": Case("vl_bert.py:tiny"),
    "concatenation": Case("early_concat.py:tiny"),
    "sum": Case("early_concat.py:tiny_sum"),
    "product": Case("early_concat.py:tiny_product"),
    "product, CNN + LSTM": Case("vqa_cnn_lstm.py:tiny"),
    "bilinear (MUTAN)": Case("bilinear_fusion.py:tiny"),
    "bilinear (MFB)": Case("bilinear_fusion.py:tiny_mfb"),
    "attention-weighted": Case("attention_weighted_fusion.py:tiny"),
    "graph convolution": Case("gcn_fusion.py:tiny"),
    "graph attention": Case("gcn_fusion.py:tiny_attention"),
    "semantic embedding": Case("semantic_embedding.py:tiny"),
    "decision: vote": Case("decision_fusion.py:tiny"),
    "decision: product": Case("decision_fusion.py:tiny_product"),
    "decision: maximum": Case("decision_fusion.py:tiny_maximum"),
    "decision: stacking": Case("decision_fusion.py:tiny_stacking"),
    "decision: agreement": Case("decision_fusion.py:tiny_agreement"),
}
KINDS = {
    "all": ("",),
    "what is it": ("what",),
    "what is beside": ("what_beside",),
    "is there": ("exists",),
    "how many": ("count", "total"),
    "colour": ("colour", "is_colour"),
    "side": ("side",),
    "is beside": ("is_beside",),
    "where": ("direction",),
}
"""Column -> kinds of questions, which are weighted by their number."""


EASY_KINDS = {
    "all": ("",),
    "colour": ("colour",),
    "shape": ("shape",),
    "is there": ("presence",),
    "is there no": ("absence",),
}
"""The same for easy-vqa."""


def on_easy_vqa(case: Case, folder: Path) -> Case:
    """The same fusion on easy-vqa."""
    recipe, _, variant = case.recipe.partition(".py:tiny")
    options = ["--data.source.path", f"{folder}/train.jsonl"]
    options += ["--final_evaluators.questions.source.source.path", f"{folder}/test.jsonl"]
    return Case(f"easy_vqa.py:{recipe}{variant.replace('_', '.')}", tuple(options))


def train(case: Case, seed: int, overrides: Sequence[str]) -> dict[str, Any]:
    """Trains once; returns the final metrics of the questions, and what the run cost."""
    with tempfile.TemporaryDirectory() as folder:
        result, workdir = Path(folder) / "result.json", Path(folder) / "run"
        recipe = f"configs/{case.recipe}"
        command = [sys.executable, "train.py", recipe, *case.options, "--seed", str(seed)]
        command += [*overrides, "--workdir", str(workdir), "--json", str(result)]
        finished = subprocess.run(
            command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
        )
        if finished.returncode:
            raise SystemExit(f"{' '.join(command)} failed:\n{finished.stderr[-2000:]}")
        metrics = json.loads(result.read_text())
        rows = [json.loads(row) for row in (workdir / "metrics.jsonl").read_text().splitlines()]
        cost = _cost(workdir / "run.json")
    # questions/DATASET/SPLIT/METRIC, and the name of a data set may have slashes too.
    (counted,) = [n for n in metrics if n.startswith("questions/") and n.endswith("/unreadable")]
    prefix = counted.removesuffix("unreadable")
    found = {n.removeprefix(prefix): v for n, v in metrics.items() if n.startswith(prefix)}
    rates = [row["examples_per_second"] for row in rows if row.get("examples_per_second")]
    return {**found, **cost, "examples_per_second": statistics.median(rates)}


def _cost(recipe: Path) -> dict[str, float]:
    """Trained parameters, and FLOPs of a step."""
    sys.path.insert(0, str(ROOT))
    from vljax.analysis.compile import model_flops
    from vljax.commands.check import summarise
    from vljax.parallel.mesh import find_devices
    from vljax.run import prepare
    from vljax.workdir import read_recipe

    prepared = prepare(read_recipe(str(recipe)), find_devices()[:1])
    return {
        "trained_parameters": summarise(prepared)["trained_parameters"],
        "flops": model_flops(prepared),
        "global_batch": prepared.run.global_batch,
    }


def share(run: Mapping[str, float], kinds: Sequence[str], metric: str = "accuracy") -> float:
    """A metric over all questions of some kinds; the kind "" is all questions."""
    names = [f"/{kind}" if kind else "" for kind in kinds]
    counts = [run[f"questions{name}"] for name in names]
    return sum(n * run[metric + name] for n, name in zip(counts, names, strict=True)) / sum(counts)


def table(
    runs: Mapping[str, Sequence[Mapping[str, float]]], columns: Mapping[str, Sequence[str]] = KINDS
) -> list[str]:
    """Rows of a Markdown table, best first; the blind models and the majority come last."""
    blind = [name for name in ("question only", "image only") if name in runs]
    seeing = [name for name in runs if name not in blind]
    seeing.sort(key=lambda name: -statistics.mean(share(run, ("",)) for run in runs[name]))
    head = [
        f"| fusion | seeds | {' | '.join(columns)} | parameters | GFLOP a step | ms a step |",
        "|---|" + "---|" * (len(columns) + 4),
    ]
    rows = []
    for name in [*seeing, *blind]:
        cells = []
        for kinds in columns.values():
            values = [share(run, kinds) for run in runs[name]]
            spread = f" ± {100 * statistics.stdev(values):.1f}" if len(values) > 1 else ""
            cells.append(f"{100 * statistics.mean(values):.1f}{spread}")
        one = runs[name][0]
        rate = statistics.median(run["examples_per_second"] for run in runs[name])
        cells += [f"{one['trained_parameters'] / 1e3:,.0f} K", f"{one['flops'] / 1e9:.1f}"]
        cells.append(f"{1e3 * one['global_batch'] / rate:.0f}")
        rows.append(f"| {name} | {len(runs[name])} | {' | '.join(cells)} |")
    one = next(iter(runs.values()))[0]
    cells = [f"{100 * share(one, kinds, 'majority'):.1f}" for kinds in columns.values()]
    rows.append(f"| most frequent answer | | {' | '.join(cells)} | | | |")
    return [*head, *rows]


def kinds_table(runs: Mapping[str, Sequence[Mapping[str, float]]]) -> list[str]:
    """Rows of a Markdown table: each kind of question, with a column for each model."""
    one = next(iter(runs.values()))[0]
    kinds = ["", *sorted(n.partition("/")[2] for n in one if n.startswith("questions/"))]
    rows = [
        f"| question | number | {' | '.join(runs)} | most frequent |",
        "|---|" + "---|" * (len(runs) + 2),
    ]
    for kind in kinds:
        suffix = f"/{kind}" if kind else ""
        cells = [f"{one[f'questions{suffix}']:.0f}"]
        for found in runs.values():
            values = [run[f"accuracy{suffix}"] for run in found]
            spread = f" ± {100 * statistics.stdev(values):.1f}" if len(values) > 1 else ""
            cells.append(f"{100 * statistics.mean(values):.1f}{spread}")
        cells.append(f"{100 * one[f'majority{suffix}']:.1f}")
        rows.append(f"| {kind or 'all'} | {' | '.join(cells)} |")
    return rows


def pointing(runs: Mapping[str, Sequence[Mapping[str, float]]]) -> list[str]:
    """A line for each fusion with attention: how often it peaks in the right object's box."""
    lines = []
    for name, found in runs.items():
        if "attention/right" in found[0]:
            right, other = (
                statistics.mean(run[f"attention/{which}"] for run in found)
                for which in ("right", "other")
            )
            lines.append(
                f"{name}: attention peaks in the right object's box in {right:.1%} of the"
                f" questions, in another's in {other:.1%}"
            )
    return lines


def abstaining(runs: Mapping[str, Sequence[Mapping[str, float]]]) -> list[str]:
    """A line for each fusion that abstains: how often it answers, and is right then."""
    lines = []
    for name, found in runs.items():
        covered = [run for run in found if "covered_accuracy" in run]
        if covered:
            coverage, accuracy = (
                statistics.mean(run[metric] for run in covered)
                for metric in ("coverage", "covered_accuracy")
            )
            lines.append(
                f"{name}: answers {coverage:.1%} of the questions, {accuracy:.1%} of them right"
            )
    return lines


def marks(data: str) -> tuple[str, str]:
    """The lines of a document between which the table of a data set stands."""
    return f"<!-- fusions on {data}: begin -->", f"<!-- fusions on {data}: end -->"


def around_table(document: Path, data: str) -> tuple[str, str]:
    """A document up to the mark before the table of a data set, and from the mark after it."""
    begin, end = marks(data)
    text = document.read_text() if document.is_file() else ""
    if text.count(begin) != 1 or text.count(end) != 1 or text.find(begin) > text.find(end):
        raise SystemExit(f"--table: {document} needs the lines {begin} and {end}, once each")
    before, _, rest = text.partition(begin)
    return before + begin, end + rest.partition(end)[2]


def write_table(document: Path, data: str, lines: Sequence[str]) -> None:
    """Replaces what stands between the two marks of a data set."""
    before, after = around_table(document, data)
    document.write_text("\n".join([before, *lines, after]))


def main() -> None:
    """Trains what is missing, and prints the table of what is there."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--easy_vqa", type=Path, metavar="DIR", help="train on what `vljax data build` made there"
    )
    parser.add_argument("--only", nargs="+", choices=list(CASES), default=list(CASES))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--out", type=Path, default=ROOT / "runs" / "fusion", help="results")
    parser.add_argument("--kinds", action="store_true", help="a row for each kind of question")
    parser.add_argument("--table", type=Path, metavar="DOCUMENT", help="write the table there")
    parser.add_argument("--json", metavar="PATH", help="write the figures; - for standard output")
    options, overrides = parser.parse_known_args()
    data, cases, columns = "scenes", CASES, KINDS
    if options.easy_vqa is not None:
        data, told = "easy_vqa", [name for name in CASES if "only" in name or "told" in name]
        cases = {n: on_easy_vqa(c, options.easy_vqa) for n, c in CASES.items() if n not in told}
        options.only, columns = [n for n in options.only if n in cases], EASY_KINDS
    if options.table:
        around_table(options.table, data)  # before hours of training
    runs: dict[str, list[dict[str, Any]]] = {}
    for seed in options.seeds:
        for name in options.only:
            result = options.out / data / f"{name.replace(' ', '_')}-{seed}.json"
            result.parent.mkdir(parents=True, exist_ok=True)
            if not result.exists():
                found = {**train(cases[name], seed, overrides), "overrides": overrides}
                result.write_text(json.dumps(found, indent=2) + "\n")
                line = f"{name}, seed {seed}: {found['accuracy']:.1%}"
                print(line, file=sys.stderr, flush=True)
            found = json.loads(result.read_text())
            if found["overrides"] != overrides:
                raise SystemExit(f"{result} was made with {found['overrides']}; use another --out")
            runs.setdefault(name, []).append(found)
    machine = f"{platform.machine()}, {os.cpu_count()} CPUs, Python {platform.python_version()}"
    if options.json == "-":
        print(json.dumps({"machine": machine, "runs": runs}, indent=2))
        return
    lines = kinds_table(runs) if options.kinds else table(runs, columns)
    print("\n".join([machine, *lines, *pointing(runs), *abstaining(runs)]))
    if options.table:
        write_table(options.table, data, lines)
    if options.json:
        content = json.dumps({"machine": machine, "runs": runs}, indent=2)
        Path(options.json).write_text(content + "\n")


if __name__ == "__main__":
    main()
