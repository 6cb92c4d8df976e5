"""The recipes of all fusions: sizes that can be compared, a few steps, answers, resuming."""

import dataclasses
import json
import math
import shutil
from pathlib import Path

import jax
import numpy as np
import pytest

from benchmarks import fusion
from vljax import config
from vljax.inference import load
from vljax.interop.export_plan import ExportIssues, TrainedModel
from vljax.interop.programs.functions import program_functions
from vljax.launch import train
from vljax.models.assembly import build
from vljax.models.compute import Compute
from vljax.models.parameters import leaves
from vljax.optim.schedules import WarmupCosine
from vljax.run import Run

CONFIGS = Path(__file__).parents[1] / "configs"
SEEING = {name: case for name, case in fusion.CASES.items() if not name.endswith("only")}
ONE_EACH = {case.recipe.split(":")[0]: case.recipe for case in reversed(SEEING.values())}
"""Recipe file -> one of its tiny variants."""


def load_recipe(case):
    return config.load(str(CONFIGS / case), Run)


def shortened(case, workdir, **changes):
    """A tiny recipe with few steps, small batches and few questions."""
    run = load_recipe(case)
    evaluator = run.final_evaluators["questions"]
    few = dataclasses.replace(evaluator.source.source, examples=4)
    evaluator = dataclasses.replace(
        evaluator, source=dataclasses.replace(evaluator.source, source=few), batch_size=16
    )
    optim = dataclasses.replace(run.optim, schedule=WarmupCosine(warmup_steps=1))
    fields = {"steps": 2, "global_batch": 8, "checkpoint_every": 1, "log_every": 1, **changes}
    fields = {"final_evaluators": {"questions": evaluator}, **fields}
    return dataclasses.replace(run, workdir=workdir, optim=optim, **fields)


def test_every_fusion_of_the_benchmark_has_as_many_parameters():
    """Within 5 % of the fusion by cross-attention, so that the table compares like with like."""
    counts = {name: parameters(load_recipe(case.recipe)) for name, case in SEEING.items()}
    wanted = counts["cross-attention"]
    far = {name: n for name, n in counts.items() if abs(n - wanted) > 0.05 * wanted}
    assert not far, f"{far}; cross-attention has {wanted}"


@pytest.mark.parametrize("name", ["cross-attention", "sum", "decision: agreement"])
def test_a_fusion_on_easy_vqa_is_its_tiny_recipe_with_other_data(name, tmp_path):
    case = fusion.on_easy_vqa(SEEING[name], tmp_path)
    assert case.options[1].endswith("train.jsonl")
    easy, tiny = load_recipe(case.recipe), load_recipe(SEEING[name].recipe)
    assert {*easy.objectives} == {*tiny.objectives} - {"cell", "look"}
    assert easy.model.nodes["answer"].classes == 13
    same = set(tiny.model.nodes) - {"cell", "answer"}
    assert {n: easy.model.nodes[n] for n in same} == {n: tiny.model.nodes[n] for n in same}
    assert easy.optim == tiny.optim


def test_the_table_ranks_fusions_and_weighs_kinds_by_their_questions():
    def run(what, count):
        kinds = {"what": (what, 30), "count": (count, 10), "total": (count, 10)}
        one = {f"{m}/{k}": v for k, (v, _) in kinds.items() for m in ("accuracy", "majority")}
        one |= {f"questions/{kind}": float(n) for kind, (_, n) in kinds.items()}
        one |= {"accuracy": (30 * what + 20 * count) / 50, "majority": 0.1, "questions": 50.0}
        cost = {"trained_parameters": 1000, "flops": 2e9, "global_batch": 8}
        return one | cost | {"examples_per_second": 16.0}

    runs = {"worse": [run(0.2, 0.5)], "question only": [run(1, 1)], "better": [run(0.9, 0.5)] * 2}
    columns = {"all": ("",), "what": ("what",), "both": ("what", "count")}
    _, _, first, second, third, last = fusion.table(runs, columns)
    assert first == "| better | 2 | 74.0 ± 0.0 | 90.0 ± 0.0 | 80.0 ± 0.0 | 1 K | 2.0 | 500 |"
    assert second.startswith("| worse | 1 | 32.0 | 20.0 | 27.5 |")
    assert third.startswith("| question only |")
    assert last.startswith("| most frequent answer |")


def parameters(run):
    """Their number; none is made."""
    shapes = build(run.model, Compute()).shapes.params
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(shapes))


def test_a_decision_is_for_classes_that_exclude_each_other():
    run = load_recipe("decision_fusion.py:tiny_agreement")
    assert [each.decided for each in run.final_evaluators.values()] == ["answer/decided"]
    assert not list(run.problems())
    answer = dataclasses.replace(run.objectives["answer"], loss="sigmoid")
    wrong = dataclasses.replace(run, objectives={**run.objectives, "answer": answer})
    ((field, message),) = wrong.problems()
    assert field == "objectives.answer.loss"
    assert message.startswith("sigmoid lets several classes be right, but the rules of 'answer', a")


def test_a_document_without_a_place_for_the_table_is_refused(tmp_path):
    document, (begin, end) = tmp_path / "table.md", fusion.marks("scenes")
    for text in (None, "no mark", f"{end}\n{begin}"):
        if text is not None:
            document.write_text(text)
        with pytest.raises(
            SystemExit, match=r"table\.md needs the lines <!-- fusions on scenes: b"
        ):
            fusion.around_table(document, "scenes")
    document.write_text("\n".join(["before", begin, "old", end, "after"]))
    fusion.write_table(document, "scenes", ["| new |"])
    assert document.read_text().splitlines() == ["before", begin, "| new |", end, "after"]


@pytest.mark.slow(
    subject=[
        "configs/vqa_cross_attention.py",
        *(f"configs/{name}" for name in sorted(ONE_EACH)),
        *("vljax/models/encoders", "vljax/models/fusion", "vljax/models/heads"),
        "vljax/evaluation/questions.py",
    ]
)
@pytest.mark.parametrize("recipe", ONE_EACH.values(), ids=ONE_EACH)
def test_a_recipe_trains_and_answers(recipe, tmp_path):
    """And the answer is a program for StableHLO and ONNX, without the naming of cells."""
    workdir = str(tmp_path / "run")
    finished = train(shortened(recipe, workdir))
    assert 0 <= finished.metrics["questions/scenes-builtin/train/accuracy"] <= 1
    rows = map(json.loads, Path(workdir, "metrics.jsonl").read_text().splitlines())
    losses = [row["loss"] for row in rows if "loss" in row]
    assert len(losses) == 2
    assert all(map(math.isfinite, losses))

    model = load(workdir)
    image = model.run.final_evaluators["questions"].source.source.open().image(0)
    answers = model.answer(image, "Is there a cat?", top=1000)
    assert sum(p for _, p in answers) == pytest.approx(1, abs=1e-5)
    unrolled = {"/".join(keys): array for keys, array in leaves(model.variables.params)}
    trained = TrainedModel(model.run, None, unrolled, {}, {}, None, "float32")
    issues = ExportIssues("stablehlo")
    (function,) = program_functions(trained, issues, Compute(), np.float32)
    assert function.weights
    assert not [weight for weight in function.weights if weight.startswith("cell/")]


def test_a_resumed_run_ends_as_an_uninterrupted_one(tmp_path):
    """Bit for bit; of a CNN and an LSTM, of which the other tests of resuming have none."""
    recipe, whole, rest = "vqa_cnn_lstm.py:tiny", str(tmp_path / "whole"), tmp_path / "rest"
    train(shortened(recipe, whole, final_evaluators={}))
    (rest / "checkpoints").mkdir(parents=True)
    shutil.copytree(f"{whole}/checkpoints/1", rest / "checkpoints/1")
    shutil.copy(f"{whole}/run.json", rest)
    train(shortened(recipe, str(rest), final_evaluators={}))
    one, other = load(whole), load(str(rest))
    assert jax.tree.all(jax.tree.map(np.array_equal, one.variables, other.variables))
