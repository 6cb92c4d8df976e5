"""`vljax check` reads a sample of the training data and says what a run could not use."""

import dataclasses
import json

import pytest

from tests.commands.conftest import ROOT
from tests.data.samples import encoded, picture
from vljax import config
from vljax.commands.main import main
from vljax.config import UserError
from vljax.data.pipeline.pipeline import read_sample
from vljax.data.sources import Expand, JsonLines
from vljax.data.transforms import Decode, Label, Resize
from vljax.datasets import Builtin
from vljax.models.assembly import ModelConfig
from vljax.models.encoders import ConvGrid
from vljax.models.heads import Classifier
from vljax.objectives import Classification
from vljax.optim import Group
from vljax.run import Run, check_data, prepare

RECIPE = "configs/vqa_cross_attention.py:tiny"
ROWS = 30
GOOD = {"q": "Is there a cat?", "a": "no", "b": [[0, 0, 8, 8]], "n": ["cat"]}
BOX = {"b": [[0, 0, 8, 8], [4, 4, 99, 8]], "n": ["cat", "dog"]}


def written(folder, changes, count):
    """A JSON-lines file of questions in which the first `count` rows are changed."""
    lines = []
    for i in range(ROWS):
        (folder / f"{i}.png").write_bytes(encoded(picture(16, 12)))
        row = {"image": f"{i}.png", **GOOD, **(changes if i < count else {})}
        lines.append(json.dumps(row) + "\n")
    file = folder / "asked.jsonl"
    file.write_text("".join(lines))
    return file


@pytest.fixture(scope="module")
def prepared():
    return prepare(config.load(f"{ROOT}/{RECIPE}", Run))


@pytest.fixture
def notes(prepared, tmp_path):
    """The notes of `check_data` on questions of which the first `count` are changed."""

    def check(changes, count, **data):
        columns = {"question": "q", "answers": "a", "boxes": "b", "box_names": "n"}
        source = JsonLines(str(written(tmp_path, changes, count)), **columns)
        run = prepared.run
        run = dataclasses.replace(run, data=dataclasses.replace(run.data, source=source, **data))
        return check_data(dataclasses.replace(prepared, run=run))

    return check


def test_good_data_has_no_note(notes):
    assert notes({}, 0) == []


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        (BOX, "damaged {}; such as jsonl:asked.jsonl/0: box (4, 4, 99, 8) of region 1 ('dog') is"),
        ({"a": ""}, "damaged {}; such as jsonl:asked.jsonl/0: a has no answer to 'Is there a cat"),
        ({"q": []}, "no_question {}; such as jsonl:asked.jsonl/0: no question"),
    ],
    ids=["box", "answer", "question"],
)
def test_damaged_rows_are_counted_named_and_limited(notes, changes, why):
    (note,) = notes(changes, 2)
    found = f"data.source: 2 of 30 sampled examples cannot be used ({why.format(2)}"
    assert note.startswith(found)
    with pytest.raises(UserError) as error:
        notes(changes, 15)
    found = "15 of 30 sampled examples cannot be used, more than 0.1 of them"
    line = str(error.value)
    assert line.startswith(f"data.max_rejected_share: {found} ({why.format(15)}")
    assert line.endswith("; repair the data, or raise the limit")
    (note,) = notes(changes, 15, max_rejected_share=0.5)
    assert "15 of 30 sampled examples" in note


def test_answers_outside_of_the_vocabulary_are_counted_named_and_limited(notes):
    (note,) = notes({"a": "A  mauve cat"}, 3)
    share = "10.0% of 30 questions have no answer in the vocabulary of 124: 'a mauve cat' (3)"
    assert note == f"encode_answers: {share}"
    with pytest.raises(UserError) as error:
        notes({"a": "mauve"}, 15)
    where = "data.train_transforms: jsonl:asked.jsonl: encode_answers"
    share = "50.0% of 30 questions have no answer in the vocabulary of 124: 'mauve' (15)"
    remedy = "make a larger one with `vljax data answers`, or raise max_unknown above 0.2"
    assert str(error.value) == f"{where}: {share}; {remedy}"


def test_the_sample_is_spread_over_the_source(prepared, monkeypatch):
    """Of 30,000 scenes, also if time allows only a few of them."""
    read = []
    records = prepared.run.data.source.open()
    kind = type(records)
    whole = kind.__getitem__
    monkeypatch.setattr(kind, "__getitem__", lambda self, i: (read.append(i), whole(self, i))[1])
    sample = read_sample(prepared.run.data, seed=0, most=200, seconds=0)
    assert sample.examples == len(read) == 32
    quarters = {4 * i // len(records) for i in read}
    assert quarters == {0, 1, 2, 3}
    assert not sample.rejected


def test_the_command_reads_a_sample(monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(ROOT)
    fields = {"question": "q", "answers": "a", "boxes": "b", "box_names": "n"}
    columns = [part for f, c in fields.items() for part in (f"--data.source.{f}", c)]
    file = str(written(tmp_path, BOX, 15))
    command = ["check", RECIPE, "--data.source", "jsonl", "--data.source.path", file, *columns]
    assert main(command) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: data.max_rejected_share: 15 of 30 sampled examples cannot be")
    assert main([*command, "--records", "0"]) == 0
    assert "sampled" not in capsys.readouterr().out
    assert main([*command, "--data.max_rejected_share", "1"]) == 0
    assert "note: data.source: 15 of 30 sampled examples" in capsys.readouterr().out
    assert main([*command, "--records", "many"]) == 2
    expected = "error: --records: must be a whole number, not 'many'\n"
    assert capsys.readouterr().err == expected


def test_data_without_an_example_is_an_error(notes, monkeypatch):
    monkeypatch.setattr(f"{__name__}.ROWS", 0)
    with pytest.raises(UserError, match=r"^data\.source: jsonl:asked\.jsonl has no examples$"):
        notes({}, 0)


def labelled(classes):
    """Names the class of built-in images."""
    run = config.load(f"{ROOT}/configs/quickstart.py:tiny", Run)
    image = ConvGrid(width=8, image_size=16, patch_size=4, merge=1, depth=1)
    transforms = (Decode(), Resize(16), Label())
    return dataclasses.replace(
        run,
        model=ModelConfig({"image": image, "kind": Classifier(stream="image", classes=classes)}),
        data=dataclasses.replace(
            run.data,
            source=Builtin("train"),
            tokenizers={},
            train_transforms=transforms,
            eval_transforms=transforms,
        ),
        objectives={"kind": Classification(logits="kind/logits", targets="label")},
        evaluators={},
        final_evaluators={},
    )


def test_labels_without_a_class_are_counted():
    labels = len(Builtin("train").open().class_names)
    assert check_data(prepare(labelled(labels)), 40) == []
    message = (
        r"^objectives.kind.targets: \d+ of 40 sampled values of 'label' are not among the 2 classes"
        r" of 'kind/logits': \d+ \(\d+\), .*; set model.nodes.kind.classes to the number of classes"
    )
    with pytest.raises(UserError, match=message):
        check_data(prepare(labelled(2)), 40)


def test_groups_that_share_parameters_are_an_error():
    run = labelled(2)
    groups = {"all": Group(parameters="image/.*|kind/.*"), "head": Group(parameters="kind/.*")}
    objective = dataclasses.replace(run.objectives["kind"], trains=("all", "head"))
    run = dataclasses.replace(run, groups=groups, objectives={"kind": objective})
    message = (
        r"^groups.head.parameters: 'kind/logits/\w+' is in the group 'all' too; a parameter may be"
        " in one group only$"
    )
    with pytest.raises(UserError, match=message):
        prepare(run)


def test_expanded_questions_without_an_answer_are_named(tmp_path, caplog):
    """They have no row, since the annotation of their record cannot be used."""
    file = written(tmp_path, {"a": ""}, 2)
    rows = Expand(JsonLines(str(file), question="q", answers="a")).open()
    assert len(rows) == ROWS - 2
    reason = "records whose annotation cannot be used"
    assert caplog.messages == [f"expand:question:jsonl:asked.jsonl: left out 2: {reason} (0, 1)"]


QUICKSTART = "configs/quickstart.py:tiny"


@pytest.fixture
def tables(tmp_path):
    """The same 12 examples in files of which some do not suit the quickstart recipe."""
    for i in range(12):
        (tmp_path / f"{i}.png").write_bytes(encoded(picture(16, 12, seed=i)))
    names = [(f"{i}.png", f"caption {i}") for i in range(12)]
    lines = {
        "good.csv": ["image,caption", *(f"{a},{b}" for a, b in names)],
        "text.csv": ["image,text", *(f"{a},{b}" for a, b in names)],
        "path.csv": ["path,caption", *(f"{a},{b}" for a, b in names)],
        "text.jsonl": [json.dumps({"image": a, "text": b}) for a, b in names],
    }
    for name, content in lines.items():
        (tmp_path / name).write_text("\n".join(content) + "\n")
    return tmp_path


@pytest.mark.parametrize(
    ("kind", "file", "more", "message"),
    [
        ("csv", "text.csv", [], "data.source.captions: csv:text.csv has no 'caption'; known: "),
        ("csv", "path.csv", [], "data.source.image: csv:path.csv has no 'image'; known: "),
        ("csv", "good.csv", ["--data.source.label", "kind"], "data.source.label: csv:good.csv has"),
        ("jsonl", "good.csv", [], "good.csv:1: not a JSON object (Expecting value: line 1"),
        ("jsonl", "text.jsonl", [], "12 of 12 sampled examples cannot be used, more than 0.1 of"),
    ],
    ids=["caption", "image", "label", "csv-as-jsonl", "caption-of-jsonl"],
)
def test_the_command_finds_what_training_data_lacks(
    tables, capsys, monkeypatch, kind, file, more, message
):
    monkeypatch.chdir(ROOT)
    source = ["--data.source", kind, "--data.source.path", str(tables / file)]
    assert main(["check", QUICKSTART, *source, *more]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line


def test_the_command_opens_the_files_of_evaluators(tables, capsys, monkeypatch):
    monkeypatch.chdir(ROOT)
    field = "evaluators.retrieval.source"
    command = ["check", QUICKSTART, f"--{field}", "csv", f"--{field}.path"]
    assert main([*command, str(tables / "text.csv")]) == 2
    expected = f"error: {field}.captions: csv:text.csv has no 'caption'; known: image, text\n"
    assert capsys.readouterr().err == expected
    assert main([*command, str(tables / "good.csv"), f"--{field}.captions", "image"]) == 0
    assert main([*command, str(tables / "text.csv"), "--records", "0"]) == 0
