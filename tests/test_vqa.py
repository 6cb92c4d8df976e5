"""Question answering from the recipe to answers, with a few steps of training."""

import csv
import dataclasses
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vljax import config
from vljax.commands.main import main
from vljax.config import UserError
from vljax.data.pipeline.evaluation_set import EvaluationSet
from vljax.data.transforms import EncodeAnswers, Tokenize
from vljax.data.vocabulary import VocabularyFile
from vljax.inference import load
from vljax.interop.export_plan import ExportIssues, TrainedModel
from vljax.interop.initial import read_source
from vljax.interop.programs.functions import program_functions
from vljax.launch import train
from vljax.models.assembly import Variables
from vljax.models.compute import Compute
from vljax.models.kernels.attention.reference import cpu_attention
from vljax.models.kernels.choose import Kernels
from vljax.models.parameters import leaves, unroll
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


@pytest.fixture(scope="module")
def model(trained):
    return load(trained[0])


@pytest.fixture(scope="module")
def asked(model):
    """Six images of the evaluation set, and a question about each."""
    data = EvaluationSet(model.run.data, model.run.final_evaluators["questions"].source)
    rows = range(6)
    return (
        [data.records.image(i) for i in rows],
        [data.annotations[i].questions[0].text for i in rows],
    )


def test_a_run_trains_evaluates_by_kind_and_draws(trained):
    _, finished = trained
    prefix = "questions/scenes-builtin/train/"
    found = {k.removeprefix(prefix): v for k, v in finished.metrics.items() if prefix in k}
    kinds = {name.partition("/")[2] for name in found if name.startswith("questions/")}
    assert {"exists", "what"} <= kinds
    assert found["questions"] == sum(found[f"questions/{kind}"] for kind in kinds)
    assert 0 <= found["accuracy"] <= 1
    assert found["majority"] > 1 / 100
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


def test_answers_have_probabilities_that_do_not_depend_on_the_recipe_file(model):
    data = EvaluationSet(model.run.data, model.run.final_evaluators["questions"].source)
    question = data.annotations[0].questions[0].text
    every = model.answer(data.records.image(0), question, top=1000)
    assert len(every) == len(model.vocabularies["answer"])
    assert sum(p for _, p in every) == pytest.approx(1, abs=1e-5)
    assert every[:5] == model.answer(data.records.image(0), question)
    batch = next(data.batches(4))
    logits = model.predictor.run(["answer/logits"], batch)["answer/logits"][0]
    names = model.vocabularies["answer"]
    assert every[0][0] == names[int(np.argmax(logits))]


@pytest.mark.parametrize("kind", ["jsonl", "csv"])
def test_questions_in_named_columns_of_a_table(kind, trained, model, tmp_path, capsys):
    """The same questions as the evaluator of the recipe, so the same numbers."""
    source = model.run.final_evaluators["questions"].source
    records = source.open()
    rows = []
    for i in range(len(records)):
        (tmp_path / f"{i}.png").write_bytes(records.image(i))
        (question,) = records.annotation(i).questions
        about = {"question": question.text, "kind": question.kind}
        rows.append({"file": f"{i}.png", "asked": [about], "people": [[question.answer]]})
    path = tmp_path / f"asked.{kind}"
    if kind == "jsonl":
        path.write_text("".join(json.dumps(r | {"image": r["file"]}) + "\n" for r in rows))
        fields = []
    else:
        with path.open("w", newline="") as file:
            table = csv.writer(file)
            table.writerow(rows[0])
            table.writerows(
                [[r["file"], *map(json.dumps, (r["asked"], r["people"]))] for r in rows]
            )
        fields = ["--data.image", "file", "--data.captions"]  # no captions
    words = ["--data", str(path), "--data.question", "asked", "--data.answers", "people", *fields]
    assert main(["eval", trained[0], "--tasks", "questions", *words, "--json", "-"]) == 0
    (task,) = json.loads(capsys.readouterr().out)["models"][0]["tasks"]
    (own,) = model.recipe_tasks()
    expected = own.evaluator.measure(model.predictor, own.data)
    assert {"accuracy", "accuracy/count"} <= task["metrics"].keys()
    for name, value in task["metrics"].items():
        assert value["value"] == pytest.approx(expected[name])


def test_a_model_without_questions_says_so(model):
    with pytest.raises(UserError, match="the model does not answer questions"):
        model.answer(b"", "Why?", targets="label")


@pytest.mark.parametrize("kind", ["safetensors", "npz"])
def test_the_model_is_exported_and_answers_again(trained, model, asked, tmp_path, kind):
    """From the exported folder as it is; an import of it holds the same arrays."""
    workdir, _ = trained
    out, again = str(tmp_path / "out"), str(tmp_path / "again")
    assert main(["export", workdir, out, "--format", kind]) == 0
    assert main(["import", out, again]) == 0
    (image, *_), _ = asked
    assert load(out).answer(image, "Is there a cat?") == model.answer(image, "Is there a cat?")
    same(load(again), model)


def test_another_tokenizer_and_a_file_of_answers_are_exported_too(asked, tmp_path):
    """Neither is in the recipe that the exported folder holds: its paths are of another machine."""
    answers = tmp_path / "answers.txt"
    answers.write_text("yes\nno\ncat\n2\n")
    run = shortened(str(tmp_path / "run"), steps=2)
    named = {
        EncodeAnswers: {"vocabulary": VocabularyFile(str(answers), size=4), "max_unknown": 1.0},
        Tokenize: {"tokenizer": "words"},
    }
    lists = {
        name: tuple(
            dataclasses.replace(each, **named[type(each)]) if type(each) in named else each
            for each in getattr(run.data, name)
        )
        for name in ("train_transforms", "eval_transforms")
    }
    data = dataclasses.replace(run.data, tokenizers={"words": run.data.tokenizers["text"]}, **lists)
    nodes = {**run.model.nodes, "answer": dataclasses.replace(run.model.nodes["answer"], classes=4)}
    model = dataclasses.replace(run.model, nodes=nodes)
    train(dataclasses.replace(run, data=data, model=model, final_evaluators={}))
    answers.unlink()
    (image, *_), (question, *_) = asked
    expected = load(str(tmp_path / "run")).answer(image, question)
    out, again = str(tmp_path / "out"), str(tmp_path / "again")
    assert main(["export", str(tmp_path / "run"), out, "--format", "safetensors"]) == 0
    assert main(["import", out, again]) == 0
    assert [load(path).answer(image, question) for path in (out, again)] == [expected, expected]
    for path in (str(tmp_path / "run"), out, again):
        assert read_source(path).vocabularies == {"answer": b"yes\nno\ncat\n2\n"}


def same(one, other):
    left, right = one.variables.params, other.variables.params
    assert jax.tree.all(jax.tree.map(np.array_equal, left, right))
    assert one.vocabularies == other.vocabularies


@pytest.mark.parametrize("kind", ["transformers", "open_clip"])
def test_formats_without_fusion_name_what_they_have(trained, tmp_path, kind, capsys):
    out = tmp_path / "out"
    assert main(["export", trained[0], str(out), "--format", kind]) == 2
    # open_clip also names the cleaning of texts.
    line, *others = capsys.readouterr().err.splitlines()
    assert len(others) == (kind == "open_clip")
    nodes = "['image', 'question', 'fusion', 'cell', 'answer']"
    assert f"cannot express model = {nodes}; it has an image tower, a text tower and" in line
    assert not out.exists()


_WITHOUT_VLJAX = """
import json, pathlib, sys
sys.modules["vljax"] = None
folder, images, questions, out = sys.argv[1:]
sys.path.insert(0, folder)
import numpy as np
from pipeline.model import Model
model = Model(folder)
files = [file.read_bytes() for file in sorted(pathlib.Path(images).iterdir())]
questions = json.loads(questions)
logits = model.answer_logits(files, questions)
assert model.answer_logits(files[:1], questions[:1]).shape == (1, logits.shape[1])
for ask, error in ((model.answer, TypeError), (model.answer_logits, ValueError)):
    try:
        ask(files[:2], questions[0])
    except error as wrong:
        assert "questions" in str(wrong), wrong
    else:
        raise AssertionError(ask)
np.save(out, logits)
print(json.dumps(model.answer(files[0], questions[0], 3)))
"""


@pytest.mark.parametrize("kind", ["stablehlo", "onnx"])
def test_a_program_without_vljax_gives_the_same_answers(trained, model, asked, tmp_path, kind):
    if kind == "onnx":
        for package in ("jax2onnx", "onnxruntime"):
            pytest.importorskip(package)
    workdir, out, folder = trained[0], tmp_path / "out", tmp_path / "images"
    assert main(["export", workdir, str(out), "--format", kind]) == 0
    images, questions = asked
    folder.mkdir()
    for i, image in enumerate(images):
        (folder / f"{i}.png").write_bytes(image)
    asking = json.dumps(questions)
    arguments = [str(out), str(folder), asking, str(tmp_path / "logits.npy")]
    done = python("-c", _WITHOUT_VLJAX, *arguments)
    assert done.returncode == 0, done.stderr

    ids, mask = model.tokenizer(questions)
    batch = {"image": np.stack([model.images(image)["image"] for image in images])}
    batch |= {"question": ids[:, None], "question_mask": mask[:, None]}
    ours = model.predictor.run(["answer/logits"], batch)["answer/logits"]
    theirs = np.load(tmp_path / "logits.npy")
    assert np.abs(ours[0] - ours[1]).max() > 0.01
    np.testing.assert_allclose(theirs, ours, rtol=0, atol=1e-5)
    answers = json.loads(done.stdout)
    expected = model.answer(images[0], questions[0], top=3)
    assert [name for name, _ in answers] == [name for name, _ in expected]
    assert [p for _, p in answers] == pytest.approx([p for _, p in expected], abs=1e-6)

    described = json.loads((out / "export.json").read_text())
    (program,) = described["programs"].values()
    assert program["output"] == {
        "name": "logits",
        "shape": ["batch", ours.shape[1]],
        "dtype": "float32",
    }
    assert not [name for name in program["weights"] if name.startswith("cell/")]
    assert not (out / "embed.py").exists()
    image = str(folder / "0.png")
    command = ["--images", image, "--questions", questions[0], "--top", "1"]
    printed = python(str(out / "answer.py"), *command)
    assert (
        printed.stdout.split(maxsplit=1)[1].strip() == f"{image}  {questions[0]}  {answers[0][0]}"
    )
    script = str(out / "answer.py")
    unreadable = python(script, "--images", script, *command[2:])
    assert unreadable.stderr.startswith(f"error: {script}: damaged, or not an image of ")
    same(load(str(out)), model)


def python(*arguments):
    command = [sys.executable, *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd="/")


def test_answers_that_need_other_inputs_have_no_program():
    run = shortened()
    nodes = {**run.model.nodes, "image": dataclasses.replace(run.model.nodes["image"], entry="x")}
    run = dataclasses.replace(run, model=dataclasses.replace(run.model, nodes=nodes))
    trained = TrainedModel(run, None, {}, {}, {}, None, "float32")
    message = (
        "^stablehlo cannot express the inputs of model.nodes.answer = "
        r"\['question', 'question_mask', 'x'\]; it has image, question, question_mask$"
    )
    with pytest.raises(UserError, match=message):
        program_functions(trained, ExportIssues("stablehlo"), Compute(), np.float32)


def test_the_program_of_a_scanned_stack_computes_the_same():
    """A stack may be scanned; programs have the unrolled names of exported weights."""
    run = shortened()
    scanned = dataclasses.replace(run.model.nodes["fusion"], scan=True)
    model = dataclasses.replace(run.model, nodes={**run.model.nodes, "fusion": scanned})
    prepared = prepare(dataclasses.replace(run, model=model))
    rng = np.random.default_rng(0)
    params = jax.tree.map(
        lambda leaf: jnp.array(rng.normal(size=leaf.shape, scale=0.1), jnp.float32),
        prepared.shapes.params,
    )
    unrolled = {"/".join(keys): array for keys, array in leaves(unroll(params))}
    trained = TrainedModel(prepared.run, None, unrolled, {}, {}, None, "float32")
    compute = Compute(kernels=Kernels(attention=cpu_attention))
    (function,) = program_functions(trained, ExportIssues("stablehlo"), compute, np.float32)
    assert function.weights.keys() <= unrolled.keys()
    assert {name.split("/")[0] for name in function.weights} == {
        *("image", "question", "fusion", "answer")
    }
    inputs = {
        name: jnp.array(rng.integers(0, 100, spec.shape) % 7, spec.dtype)
        for name, spec in function.inputs.items()
    }
    assert inputs["question"].shape == (1, 18)
    weights = {name: unrolled[name] for name in function.weights}
    expected, _ = prepared.model.apply(Variables(params, {}), inputs, want=("answer/logits",))
    np.testing.assert_allclose(
        function(weights, inputs), expected["answer/logits"], rtol=0, atol=1e-5
    )


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            ["--model.nodes.fusion.queries", "qestion"],
            "model.nodes.fusion: reads 'qestion', which no node makes; did you mean 'question'?",
        ),
        (
            ["--model.nodes.answer.classes", "12"],
            "objectives.answer.targets: 'answer' has 124 classes and 'answer/logits' 12",
        ),
        (
            ["--model.nodes.fusion.width", "64"],
            "model.nodes.fusion.queries: 'question' is 96 wide but width is 64; make them equal",
        ),
        (
            ["--model.nodes.fusion.context", "fusion"],
            "model.nodes.fusion: reads its own output: fusion <- fusion; read another stream",
        ),
        (
            ["--model.nodes.question.entry", "qestion"],
            "model.nodes.question: reads the batch entry 'qestion', which no transform makes; did",
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
