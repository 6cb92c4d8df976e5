"""`Expand`: one row for each question or caption of a source."""

import dataclasses
import pickle

import numpy as np
import pytest

from tests.data.samples import sample_data, write_jsonl
from vljax.config import UserError, validate
from vljax.data.pipeline.batches import unpack_ids
from vljax.data.pipeline.evaluation_set import EvaluationSet
from vljax.data.pipeline.pipeline import stream_fingerprint, train_batches
from vljax.data.sources import Expand, JsonLines, Mixture, Part
from vljax.data.tokenizers import Clip
from vljax.data.transforms import (
    ChooseQuestions,
    ChooseText,
    Decode,
    EncodeAnswers,
    Resize,
    Tokenize,
)
from vljax.datasets import Scenes

SCENES = Scenes(size=64, examples=12, max_objects=2)
STEPS = (
    Decode(),
    Resize(16),
    ChooseQuestions(count=None),
    Tokenize("question"),
    EncodeAnswers(("yes", "no"), max_unknown=1.0),
)


def questions():
    return sample_data(
        "",
        source=Expand(SCENES),
        tokenizers={"text": Clip(context_length=12)},
        train_transforms=STEPS,
        eval_transforms=STEPS,
    )


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def test_rows_are_the_questions_of_all_records_in_order():
    inner, rows = SCENES.open(), Expand(SCENES).open()
    expected = [
        (i, question) for i in range(len(inner)) for question in inner.annotation(i).questions
    ]
    assert len(rows) == len(expected) > len(inner)
    for index in np.random.default_rng(0).permutation(len(rows)).tolist():
        record, question = expected[index]
        found = rows[index]
        assert found.questions == rows.annotation(index).questions == (question,)
        assert dataclasses.replace(found, questions=()) == dataclasses.replace(
            inner[record], questions=()
        )
        assert (found.image, found.masks) == (rows.image(index), rows.masks(index))
    for index in (-1, len(rows)):
        with pytest.raises(IndexError):
            rows.annotation(index)


def test_captions_that_are_blank_and_records_without_any_have_no_row(tmp_path):
    rows = [{"captions": ["a", " ", "b"]}, {"captions": []}, {"captions": ["c"], "class": "x"}]
    path = write_jsonl(tmp_path, rows)
    records = Expand(JsonLines(path), by="caption").open()
    assert [records.annotation(i).captions for i in range(len(records))] == [("a",), ("b",), ("c",)]
    assert records[2].label == 0
    assert records.class_names == ("x",)


def test_phrases_stay_with_their_caption():
    inner, rows = SCENES.open(), Expand(SCENES, by="caption").open()
    first = inner.annotation(0)
    for index in range(len(first.captions)):
        found = rows.annotation(index)
        assert found.captions == first.captions[index : index + 1]
        spans = {(p.start, p.end, p.regions) for p in first.phrases if p.caption == index}
        assert {(p.start, p.end, p.regions) for p in found.phrases} == spans
        assert {p.caption for p in found.phrases} <= {0}


def test_the_identity_tells_questions_captions_and_data_apart():
    other = dataclasses.replace(SCENES, seed=1)
    sources = (SCENES, Expand(SCENES), Expand(SCENES, by="caption"), Expand(other))
    assert len({source.open().identity for source in sources}) == 4
    assert len({source.full_name for source in sources[:3]}) == 3


def test_the_second_opening_reads_no_annotation(monkeypatch):
    first = Expand(SCENES).open()
    kind = type(SCENES.open())
    monkeypatch.setattr(kind, "annotation", lambda *_: pytest.fail("read an annotation"))
    assert len(Expand(SCENES).open()) == len(first)


def test_opened_rows_can_be_pickled():
    rows = Expand(SCENES).open()
    assert pickle.loads(pickle.dumps(rows)).annotation(5) == rows.annotation(5)


def test_training_resumes_in_the_same_order_and_sees_each_question_once_an_epoch():
    data = questions()
    rows = data.source.open()
    whole = train_batches(data, seed=1, global_batch=4)
    batches = [next(whole) for _ in range(len(rows) // 4 + 1)]
    whole.close()
    ids = np.concatenate([unpack_ids(batch["example_id"]) for batch in batches])[: len(rows)]
    assert sorted(ids.tolist()) == [*range(len(rows))]
    later = train_batches(data, seed=1, global_batch=4, start_step=3)
    np.testing.assert_equal(next(later), batches[3])
    later.close()
    known = ("yes", "no")
    for row, index in enumerate(unpack_ids(batches[0]["example_id"]).tolist()):
        (question,) = rows.annotation(index).questions
        expected = [float(question.answer == answer) for answer in known]
        assert batches[0]["answer"][row].tolist() == expected
        ids, mask = data.tokenizers["text"].load()([question.text])
        assert np.array_equal(batches[0]["question"][row], ids[0])
        assert np.array_equal(batches[0]["question_mask"][row], mask[0])


def test_an_evaluation_set_has_a_row_for_each_question():
    data = questions()
    examples = EvaluationSet(data, data.source)
    batch = next(iter(examples.batches(len(examples))))
    assert unpack_ids(batch["example_id"]).tolist() == [*range(len(examples))]
    asked = [annotation.questions[0].text for annotation in examples.annotations]
    ids, _ = data.tokenizers["text"].load()(asked)
    assert np.array_equal(batch["question"], ids)


def test_an_expanded_source_is_a_part_of_a_mixture():
    parts = {"questions": Part(Expand(SCENES), 1), "again": Part(Expand(SCENES), 1)}
    data = dataclasses.replace(questions(), source=Mixture(parts))
    validate(data)
    batches = train_batches(data, seed=0, global_batch=4)
    assert next(batches)["valid"].all()
    batches.close()
    assert stream_fingerprint(data, seed=0, global_batch=4) != stream_fingerprint(
        questions(), seed=0, global_batch=4
    )


def test_errors_name_the_field(tmp_path):
    with pytest.raises(UserError, match=r"source: cannot be of type mixture; expand the sources"):
        validate(Expand(Mixture({"a": Part(SCENES)})))
    with pytest.raises(UserError, match=r"^data\.source\.source\.path: unset"):
        Expand(JsonLines()).open()
    plain = (Decode(), Resize(16), ChooseText(), Tokenize())
    data = dataclasses.replace(questions(), train_transforms=plain, eval_transforms=plain)
    batches = train_batches(data, seed=0, global_batch=4)
    assert next(batches)["text"].shape == (4, 12)
    batches.close()
