"""Question answering from the recipe to answers, with a few steps of training."""

import dataclasses
import json
import re
import shutil
from pathlib import Path

import jax
import numpy as np
import pytest

from vljax import config
from vljax.commands.main import main
from vljax.config import UserError
from vljax.data.pipeline.evaluation_set import EvaluationSet
from vljax.inference import load
from vljax.launch import train
from vljax.optim.schedules import WarmupCosine
from vljax.run import Run, prepare

RECIPE = "configs/vqa_cross_attention.py"


def shortened(workdir=None, **changes):
    """The tiny recipe with few steps, small batches and few questions."""
    run = config.load(f"{RECIPE}:tiny", Run)
    evaluator = run.final_evaluators["questions"]
    few = dataclasses.replace(evaluator.source.source, examples=6)
    evaluator = dataclasses.replace(
        evaluator, source=dataclasses.replace(evaluator.source, source=few), batch_size=16
    )
    fields = {"steps": 4, "global_batch": 8, "checkpoint_every": 2, "log_every": 1, **changes}
    optim = dataclasses.replace(run.optim, schedule=WarmupCosine(warmup_steps=1))
    return dataclasses.replace(
        run, workdir=workdir, optim=optim, final_evaluators={"questions": evaluator}, **fields
    )


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    workdir = str(tmp_path_factory.mktemp("vqa") / "run")
    return workdir, train(shortened(workdir))


def test_a_run_trains_evaluates_by_kind_and_draws(trained):
    _, finished = trained
    prefix = "questions/scenes-builtin/train/"
    found = {k.removeprefix(prefix): v for k, v in finished.metrics.items() if prefix in k}
    kinds = {name.partition("/")[2] for name in found if name.startswith("questions/")}
    assert {"exists", "what"} <= kinds
    assert found["questions"] == sum(found[f"questions/{kind}"] for kind in kinds)
    assert 0 <= found["accuracy"] <= 1
    assert found["majority"] > 1 / 125
    assert any(path.name == "questions_questions.png" for path in finished.plots)


def test_a_resumed_run_ends_as_an_uninterrupted_one(trained, tmp_path):
    """Bit for bit: the run of four steps, and one of two steps that goes on."""
    workdir, _ = trained
    other = tmp_path / "run"
    first = shortened(str(other))
    (other / "checkpoints").mkdir(parents=True)
    shutil.copytree(f"{workdir}/checkpoints/2", other / "checkpoints/2")
    shutil.copy(f"{workdir}/run.json", other)
    train(first)
    rows = [
        [json.loads(line) for line in Path(path, "metrics.jsonl").read_text().splitlines()]
        for path in (workdir, other)
    ]
    last = [next(r for r in each if r["step"] == 4 and "loss" in r) for each in rows]
    assert last[0]["loss"] == last[1]["loss"]
    left, right = (load(str(path)).variables.params for path in (workdir, other))
    assert jax.tree.all(jax.tree.map(np.array_equal, left, right))


def test_answers_have_probabilities_that_do_not_depend_on_the_recipe_file(trained):
    workdir, _ = trained
    model = load(workdir)
    data = EvaluationSet(model.run.data, model.run.final_evaluators["questions"].source)
    question = data.annotations[0].questions[0].text
    every = model.answer(data.records.image(0), question, top=1000)
    assert len(every) == 125
    assert sum(p for _, p in every) == pytest.approx(1, abs=1e-5)
    assert every[:5] == model.answer(data.records.image(0), question)
    batch = next(data.batches(4))
    logits = model.predictor.run(["answer/logits"], batch)["answer/logits"][0]
    names = model.vocabularies["answer"]
    assert every[0][0] == names[int(np.argmax(logits))]


def test_a_model_without_questions_says_so(trained):
    workdir, _ = trained
    with pytest.raises(UserError, match="the model does not answer questions"):
        load(workdir).answer(b"", "Why?", targets="label")


@pytest.mark.parametrize("kind", ["safetensors"])
def test_the_model_is_exported_and_answers_again(trained, tmp_path, kind):
    workdir, _ = trained
    out = str(tmp_path / "out")
    assert main(["export", workdir, out, "--format", kind]) == 0
    model, other = load(workdir), load(out)
    image = EvaluationSet(model.run.data, model.run.final_evaluators["questions"].source)
    asked = (image.records.image(0), "Is there a cat?")
    assert other.answer(*asked) == model.answer(*asked)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            ["--model.nodes.fusion.queries", "qestion"],
            "model.nodes.fusion: reads 'qestion', which no node makes; did you mean 'question'?",
        ),
        (
            ["--model.nodes.answer.classes", "12"],
            "objectives.answer.targets: 'answer' has 125 classes and 'answer/logits' 12",
        ),
        (
            ["--model.nodes.fusion.width", "64"],
            "model.nodes.fusion.queries: 'question' is 96 wide but width is 64; make them equal",
        ),
        (
            ["--objectives.answer.logits", "answr/logits"],
            "objectives.answer: reads 'answr/logits', which no node makes",
        ),
        (
            ["--objectives.answer.targets", "anser"],
            "objectives.answer: needs the batch entry 'anser', which no transform makes; did you",
        ),
    ],
)
def test_a_recipe_that_does_not_fit_is_one_line(overrides, message, capsys):
    assert main(["check", f"{RECIPE}:tiny", *overrides]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert re.sub(r"^error: ", "", line).startswith(message)


def test_a_node_that_nobody_reads_is_a_note():
    run = shortened()
    spare = dataclasses.replace(run.model.nodes["image"], entry="image")
    nodes = {**run.model.nodes, "spare": spare}
    prepared = prepare(dataclasses.replace(run, model=dataclasses.replace(run.model, nodes=nodes)))
    assert "model.nodes.spare: neither a node nor an objective reads it" in prepared.notes
