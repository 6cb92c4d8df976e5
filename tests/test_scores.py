"""Scores of finished models: what is kept, intervals, comparisons and the command `vljax eval`.

The model is a tiny CLIP of transformers; what it measures is that of `tests/parity/make_verify.py`.
"""

import dataclasses
import json
import math
from pathlib import Path

import jax
import numpy as np
import pytest

from tests.interop.conftest import foreign, trunks  # noqa: F401  fixtures
from tests.parity import verify_inputs as inputs
from vljax import scores
from vljax.commands import evaluate
from vljax.commands.main import main
from vljax.config import UserError
from vljax.data.pipeline.evaluation_set import EvaluationSet
from vljax.datasets import Builtin
from vljax.evaluation.metrics.uncertainty import Sampled
from vljax.evaluation.predictor import ModelPredictor
from vljax.evaluation.retrieval import _grouped
from vljax.inference import EvaluationTask, load

NAME = "transformers_clip_a"
STORED = json.loads((Path(__file__).parent / "parity" / "data" / "verify.json").read_text())[NAME]


@pytest.fixture
def data(tmp_path):
    """A folder of images by class, whose split file has captions."""
    inputs.write_split(tmp_path / "coco", STORED["captions"])
    inputs.write_folder(tmp_path / "imagenet", STORED["labels"])
    (tmp_path / "names.txt").write_text("\n".join(inputs.CLASSES) + "\n")
    (tmp_path / "prompts.txt").write_text("\n".join(inputs.PROMPTS) + "\n")
    return tmp_path


class Counting(ModelPredictor):
    """A predictor that counts the batches it computes, and stops before batch `until`."""

    def __init__(self, predictor, until):
        super().__init__(predictor.forward, predictor.variables)
        vars(self).update(until=until, batches=0)

    def run(self, want, batch):
        if self.batches == self.until:
            raise KeyboardInterrupt
        vars(self)["batches"] += 1
        return super().run(want, batch)


def counted(model, until=math.inf):
    predictor = Counting(model.predictor, until)
    return predictor, dataclasses.replace(model, predictor=predictor)


def tasks_of(model, data):
    return model.tasks(
        data / "imagenet",
        ["zero_shot"],
        class_names=inputs.CLASSES,
        templates=[prompt.replace("{c}", "{}") for prompt in inputs.PROMPTS],
        batch_size=4,
    ) + model.tasks(data / "coco" / "dataset_coco.json", "retrieval", batch_size=4)


def quiet(done, total):
    assert 0 <= done <= total


def test_an_interrupted_evaluation_goes_on_where_it_was(foreign, data):  # noqa: F811
    source = str(foreign(NAME))
    model = load(source)
    whole, all_of_it = counted(model)
    expected = scores.measure(all_of_it, tasks_of(model, data), quiet)
    out = data / "out"
    first, stopped = counted(model, until=3)
    with pytest.raises(KeyboardInterrupt):
        scores.measure(stopped, tasks_of(model, data), quiet, path=source, folder=out)
    part = next(iter(sorted((out / scores.PARTS).glob("*/00000001-*"))))
    part.write_bytes(part.read_bytes()[:50])  # as after a power cut: computed again
    second, resumed = counted(model)
    found = scores.measure(resumed, tasks_of(model, data), quiet, path=source, folder=out)
    assert first.batches == 3
    assert second.batches == whole.batches - 2
    assert found == expected
    assert not (out / scores.PARTS).exists()
    third, again = counted(model, until=0)
    assert scores.measure(again, tasks_of(model, data), quiet, path=source, folder=out) == expected
    assert third.batches == 0
    kept = scores.compare(expected[0], found[0])
    assert all(change == (0, 0, 0) for change in kept.values())
    assert {"accuracy@1", "mean_per_class"} <= set(kept)


def test_another_model_or_setting_is_measured_again(foreign, data):  # noqa: F811
    source, out = str(foreign(NAME)), data / "out"
    model = load(source)
    scores.measure(model, tasks_of(model, data), quiet, path=source, folder=out)
    file = Path(source) / "config.json"
    file.write_text(file.read_text() + "\n")
    changed, counting = counted(model)
    scores.measure(counting, tasks_of(model, data), quiet, path=source, folder=out)
    assert changed.batches
    (zero_shot,) = model.tasks(data / "imagenet", ["zero_shot"], batch_size=4)
    other, counting = counted(model)
    scores.measure(counting, [zero_shot], quiet, path=source, folder=out)
    assert other.batches


def test_tasks_on_the_same_data_share_the_outputs_of_images(foreign, data):  # noqa: F811
    model = load(str(foreign(NAME)))
    alone, counting = counted(model)
    (zero_shot,) = model.tasks(data / "imagenet", "zero_shot", batch_size=4)
    scores.measure(counting, [zero_shot], quiet)
    both, counting = counted(model)
    scores.measure(counting, [zero_shot, zero_shot._replace(name="again")], quiet)
    assert both.batches == alone.batches


def probe_tasks(model, data, names):
    labels = [*STORED["labels"][1:], STORED["labels"][0]]
    if not (data / "train").exists():
        inputs.write_folder(data / "train", labels)
    return model.tasks(data / "imagenet", names, train=data / "train", batch_size=4)


def test_training_examples_are_encoded_once_and_kept(foreign, data):  # noqa: F811
    """18 test and 18 training images in 5 batches each, for three tasks with one output."""
    source, out = str(foreign(NAME)), data / "out"
    model = load(source)
    names = ["few_shot", "linear_probe"]
    tasks = probe_tasks(model, data, names)
    expected = {t.name: t.evaluator.measure(model.predictor, t.data) for t in tasks}
    first, stopped = counted(model, until=7)
    with pytest.raises(KeyboardInterrupt):
        scores.measure(stopped, tasks, quiet, path=source, folder=out)
    assert len([*(out / scores.PARTS).iterdir()]) == 2  # of test and training examples
    second, resumed = counted(model)
    found = scores.measure(resumed, tasks, quiet, path=source, folder=out)
    assert (first.batches, second.batches) == (7, 3)
    assert {score.task: score.metrics for score in found} == expected
    (data / "train" / "n00000000" / "more.png").write_bytes(inputs.images()[0])
    third, again = counted(model)
    scores.measure(again, probe_tasks(model, data, names), quiet, path=source, folder=out)
    assert third.batches  # other training examples: measured again


def test_outputs_of_another_kind_are_read_in_one_pass(foreign, data, monkeypatch):  # noqa: F811
    """Zero-shot classification leaves embeddings of all batches; a probe needs other features."""
    source = str(foreign(NAME))
    model = load(source)
    (zero_shot,) = model.tasks(data / "imagenet", "zero_shot", batch_size=4)
    (probe,) = probe_tasks(model, data, ["few_shot"])
    opened = []

    class Set(EvaluationSet):
        def batches(self, *arguments, **options):
            opened.append(self.source.full_name)
            return super().batches(*arguments, **options)

    for task in (zero_shot, probe):
        task.data.__class__ = Set
    scores.measure(model, [zero_shot, probe], quiet)
    assert opened == ["folder:imagenet"] * 2


def test_metrics_that_are_undefined_are_null():
    score = scores.Score("t", "d/s", {"a": float("nan"), "b": Sampled(np.array([1.0, 0.0]))})
    made = score.as_json()["metrics"]
    assert made == {"a": {"value": None}, "b": {"value": 0.5, "low": 0.0, "high": 1.0}}
    json.dumps(made, allow_nan=False)


def test_scores_of_other_examples_are_not_compared():
    first = scores.Score("t", "d/s", {"a": Sampled(np.array([1.0, 0.0, 1.0]))})
    second = scores.Score("t", "d/s", {"a": Sampled(np.array([1.0, 0.0]))})
    with pytest.raises(UserError, match="t/a: the first has 3 values and the second 2"):
        scores.compare(first, second)
    with pytest.raises(UserError, match="cannot be compared with t on d/s"):
        scores.compare(first, scores.Score("t", "other/s", {}))


def test_the_command_writes_its_result_in_three_forms(foreign, data, capsys):  # noqa: F811
    source = foreign(NAME)
    options = ["--data", str(data / "imagenet"), "--tasks", "zero_shot", "--batch-size", "4"]
    options += ["--classes", str(data / "names.txt"), "--templates", str(data / "prompts.txt")]
    options += ["--out", str(data / "out"), "--clip-benchmark", str(data / "theirs")]
    assert main(["eval", str(source), *options, "--json", str(data / "result.json")]) == 0
    assert "zero_shot, imagenet/all" in capsys.readouterr().out
    (model,) = json.loads((data / "result.json").read_text())["models"]
    (task,) = model["tasks"]
    accuracy = task["metrics"]["accuracy@1"]
    assert 100 * accuracy["value"] == pytest.approx(STORED["accuracy@1"], abs=1e-9)
    assert accuracy["low"] <= accuracy["value"] <= accuracy["high"]
    (theirs,) = (data / "theirs").iterdir()
    about = json.loads(theirs.read_text())
    assert about["task"] == "zeroshot_classification"
    assert about["metrics"]["acc1"] == accuracy["value"]


def test_fields_of_the_data_follow_it(foreign, data, capsys):  # noqa: F811
    rows = ["file,title", *(f"{path},picture {i}" for i, path in enumerate(data.rglob("*.png")))]
    assert len(rows) > 2
    (data / "titles.csv").write_text("\n".join(rows) + "\n")
    options = ["--tasks", "retrieval", "--data", str(data / "titles.csv"), "--json", "-"]
    fields = ["--data.captions", "title", "--data.image", "file"]
    assert main(["eval", str(foreign(NAME)), *options, *fields]) == 0
    (model,) = json.loads(capsys.readouterr().out)["models"]
    assert model["tasks"][0]["metrics"]["captions"]["value"] == len(rows) - 1


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["no/such"], "no/such: no such file or folder"),
        (["a", "--data", "b.csv"], "--tasks: name what to measure on --data"),
        (["a", "--classes", "c.txt"], "--classes: needs --data"),
        (["a", "--data.captions", "b"], "--data.captions: needs --data"),
        (
            ["a", "--data", "b.csv", "--tasks", "retrieval", "--data.caption", "t"],
            "unknown field 'caption'",
        ),
        (["a", "--compare"], "--compare: name at least two models"),
        (["a", "./a", "--compare"], "a model is named twice"),
        (["a", "--batch-size", "0"], "--batch-size: must be at least 1, got 0"),
        (["a", "--json", "no/such/x.json"], "--json: no/such/x.json must be a file in a folder"),
        (
            ["a", "--clip-benchmark", "/dev/null/x"],
            "--clip-benchmark: /dev/null/x (Not",
        ),
        (["a", "--out", "gs://bucket/x"], "--out: gs://bucket/x must be a local folder"),
    ],
)
def test_bad_input_is_one_line(words, message, capsys):
    assert main(["eval", *words]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ")
    assert message in line


def test_a_model_without_evaluators_needs_data(foreign, capsys):  # noqa: F811
    assert main(["eval", str(foreign(NAME))]) == 2
    assert "has no evaluators; name data and tasks" in capsys.readouterr().err


def test_models_of_other_tasks_are_not_measured_for_a_comparison():
    task = EvaluationTask("questions/b/test", None, None)
    found = [scores.Score("zero_shot/a/test", "a/test", {})]
    with pytest.raises(UserError, match="of a measures zero_shot/a/test, but that of b questions"):
        evaluate._check_same_tasks("a", found, "b", [task])


def test_labels_are_names_of_folders(tmp_path, monkeypatch):
    (tmp_path / "runs" / "a").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "runs" / "a")
    assert evaluate._labels([".", "..", "../b"]) == ["a", "runs", "b"]
    assert evaluate._labels(["x/c", "y/c"]) == ["x-c", "y-c"]


def test_large_numbers_are_printed_in_full():
    assert [evaluate._number(n) for n in (0.012345, 999.5, 25010.0, 1234.5)] == [
        "0.01235",
        "999.5",
        "25010",
        "1234",
    ]
    assert evaluate._number(-12345.0, "+") == "-12345"


def test_a_full_disk_is_one_line(foreign, data, monkeypatch):  # noqa: F811
    model = load(str(foreign(NAME)))

    def full(file, **arrays):
        file.write(b"part")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(scores.np, "savez", full)
    with pytest.raises(UserError, match=r"cannot be written \(No space left on device\); name"):
        scores.measure(
            model, tasks_of(model, data), quiet, path=str(foreign(NAME)), folder=data / "out"
        )
    assert not [path for path in (data / "out").rglob("*") if path.is_file()]


@pytest.mark.parametrize(
    ("option", "lines", "message"),
    [
        ("--classes", "a\nb\n", "--classes: 2 names, but"),
        ("--templates", "a photo\n", "must hold '{}' once"),
    ],
)
def test_errors_in_files_name_their_option(foreign, data, capsys, option, lines, message):  # noqa: F811
    (data / "file.txt").write_text(lines)
    words = ["--data", str(data / "imagenet"), "--tasks", "zero_shot", option]
    assert main(["eval", str(foreign(NAME)), *words, str(data / "file.txt")]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"error: {option}: ")
    assert message in line
    assert main(["eval", str(foreign(NAME)), *words, str(data / "none.txt")]) == 2
    assert f"error: {option}: {data / 'none.txt'}" in capsys.readouterr().err


def test_an_interrupted_command_says_how_to_go_on(foreign, data, monkeypatch, capsys):  # noqa: F811
    def stop(*arguments, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr(scores, "measure", stop)
    words = [str(foreign(NAME)), "--data", str(data / "imagenet"), "--tasks", "zero_shot"]
    assert main(["eval", *words, "--out", str(data / "out")]) == 130
    assert f"the same command goes on from {data / 'out'}" in capsys.readouterr().err
    assert main(["eval", *words]) == 130
    assert "nothing is kept without --out DIR" in capsys.readouterr().err


def test_json_on_standard_output_is_all_there_is(foreign, data, capsys):  # noqa: F811
    words = [str(foreign(NAME)), "--data", str(data / "imagenet"), "--tasks", "zero_shot"]
    assert main(["eval", *words, "--batch-size", "4", "--json", "-"]) == 0
    assert json.loads(capsys.readouterr().out)["models"][0]["model"] == str(foreign(NAME))


def test_results_of_a_model_without_a_digest_are_not_kept(foreign, tmp_path):  # noqa: F811
    model = load(str(foreign(NAME)))
    with pytest.raises(UserError, match="no/such: its files cannot be compared"):
        scores.measure(model, [], quiet, path="no/such", folder=tmp_path)


def test_retrieval_on_eight_devices_differs_from_one_only_at_ties(foreign):  # noqa: F811
    """From files to hits: another hit needs two similarities that are 4e-6 apart, or less."""
    near, source = 4e-6, str(foreign(NAME))
    models = load(source, devices=jax.devices()[:1]), load(source)
    found = []
    for model in models:
        (task,) = model.tasks(Builtin("validation"), "retrieval", batch_size=64)
        found.append(task.evaluator.measure(model.predictor, task.data))
    images = [task.data.records.image(i) for i in range(len(task.data.captions))]
    texts = _grouped(task.data.captions)
    encoded = [(model.encode_image(images), model.encode_text(texts.texts)) for model in models]
    for one, eight in zip(*encoded, strict=True):
        np.testing.assert_allclose(one, eight, rtol=0, atol=1e-6)
    by_images, by_texts = (each.astype(np.float64) for each in encoded[0])
    similarity = by_texts @ by_images.T
    right = texts.text_groups[:, None] == texts.image_groups
    compared = 0
    for k in (1, 5, 10):
        for name, table, its in (
            ("text_to_image", similarity, right),
            ("image_to_text", similarity.T, right.T),
        ):
            hits = [np.asarray(each[f"{name}/recall@{k}"].values) for each in found]
            assert hits[0].shape == (len(table),)
            for query in np.flatnonzero(hits[0] != hits[1]):
                best, others = table[query][its[query]].max(), np.sort(table[query][~its[query]])
                assert abs(best - others[-k]) < near
            compared += hits[0].size
    assert compared > 1000
