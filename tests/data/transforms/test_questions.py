"""Questions reach batches, and answers become soft targets."""

import logging
import re
from collections import Counter

import numpy as np
import pytest

from tests.data.samples import encoded, picture, sample_data
from vljax.config import UserError, decode, encode, validate
from vljax.data.pipeline.pipeline import stream_fingerprint, train_batches
from vljax.data.records import Annotation, ExampleError, Question, Record, Records, Source
from vljax.data.tokenizers import Clip
from vljax.data.transforms import (
    ChooseQuestions,
    Decode,
    EncodeAnswers,
    Flip,
    Hide,
    Prompt,
    Resize,
    Tokenize,
    Transform,
)
from vljax.data.transforms.base import batch_arrays, list_problems
from vljax.data.vocabulary import VocabularyFile

ASKED = (
    Question("count", "How many?", "2"),
    Question("colour", "Which colour?", "red", answers=(("red", 6.0), ("Dark  RED", 3.0))),
    Question("side", "Which side?", "left"),
)


def record(*questions):
    return Record(captions=("a dog",), image=encoded(picture(9, 9)), questions=questions)


def chosen(transform, questions=ASKED, seed=0):
    return transform({"record": record(*questions)}, np.random.default_rng(seed))


@pytest.mark.parametrize("count", [1, 2, 3, 4, 6, 7])
def test_questions_come_again_only_after_all_others(count):
    firsts = Counter()
    for seed in range(60):
        found = chosen(ChooseQuestions(count), seed=seed)
        assert len(found["question"]) == len(found["answers"]) == count
        times = Counter(found["question"])
        assert max(times.values()) - min((*times.values(), *[0] * (3 - len(times)))) <= 1
        firsts[found["question"][0]] += 1
        answers = {q.text: q.weighted_answers for q in ASKED}
        assert found["answers"] == tuple(answers[text] for text in found["question"])
    assert min(firsts[q.text] for q in ASKED) > 8


def test_kinds_leave_questions_out():
    transform = ChooseQuestions(4, kinds=("count", "side"))
    assert {*chosen(transform)["question"]} == {"How many?", "Which side?"}
    with pytest.raises(ExampleError, match="no question"):
        chosen(ChooseQuestions(kinds=("exists",)))


def test_the_only_question_of_a_record():
    found = chosen(ChooseQuestions(None), ASKED[1:2])
    assert found["question"] == "Which colour?"
    assert found["answers"] == (("red", 6.0), ("Dark  RED", 3.0))
    with pytest.raises(ExampleError, match="3 questions; expand the source, or set count"):
        chosen(ChooseQuestions(None))


@pytest.mark.parametrize(
    ("question", "message"),
    [
        (Question("count", "How many?", " "), "question 'How many\\?' has no answer"),
        (Question("count", "", "2"), "a question is empty"),
    ],
)
def test_an_incomplete_question_is_named(question, message):
    with pytest.raises(ExampleError, match=message) as error:
        chosen(ChooseQuestions(), (*ASKED, question))
    assert error.value.kind == "no_question"


def test_targets_are_weights_over_the_known_answers():
    encode_answers = EncodeAnswers(("red", "dark red", "2"))
    example = {"answers": tuple(q.weighted_answers for q in ASKED)}
    target = encode_answers(example, np.random.default_rng(0))["answer"]
    assert target.dtype == np.float32
    np.testing.assert_allclose(target, [[0, 0, 1], [2 / 3, 1 / 3, 0], [0, 0, 0]], rtol=1e-7)


def test_flip_leaves_images_whose_question_or_answer_names_a_side():
    image = picture(9, 9)
    for transforms, mirrored in (
        ((ChooseQuestions(kinds=("side",)), Flip(1.0)), False),
        ((ChooseQuestions(kinds=("count",)), Flip(1.0)), True),
        ((ChooseQuestions(kinds=("side",)), Tokenize("question"), Flip(1.0)), False),
        ((ChooseQuestions(3), Flip(1.0)), False),
    ):
        tokenizers = {"text": Clip(context_length=9).load()}
        example = {"record": record(*ASKED), "image": image, "tokenizers": tokenizers}
        for transform in transforms:
            example = transform(example, np.random.default_rng(0))
        assert np.array_equal(example["image"], image) != mirrored


class Asked(Records):
    identity = "asked"

    def __init__(self, questions):
        self._questions = questions

    def __len__(self):
        return 40

    def annotation(self, index):
        return Annotation(("a dog",), questions=self._questions)

    def image(self, index):
        return encoded(picture(9, 9))


def data(source, *encoded_as, count=2, **fields):
    steps = (
        Decode(),
        Resize(8),
        ChooseQuestions(count, **fields),
        Tokenize("question", tokenizer="question"),
        *encoded_as,
    )
    tokenizers = {"question": Clip(context_length=6)}
    return sample_data(
        "", source=source, tokenizers=tokenizers, train_transforms=steps, eval_transforms=steps
    )


@pytest.fixture
def source():
    class Fixed(Source):
        full_name = "fixed"

        def open(self):
            return Asked(ASKED)

    return Fixed()


def test_questions_and_answers_are_arrays_of_a_batch(source):
    vqa = data(source, EncodeAnswers(("2", "red", "left", "right")))
    batches = train_batches(vqa, seed=0, global_batch=4)
    batch = next(batches)
    batches.close()
    spec = vqa.batch_spec(4)
    assert {k: (v.shape, v.dtype) for k, v in batch.items()} == spec
    assert spec["question"] == ((4, 2, 6), np.int32)
    assert spec["question_mask"] == ((4, 2, 6), bool)
    assert spec["answer"] == ((4, 2, 4), np.float32)
    ids, mask = Clip(context_length=6).load()([q.text for q in ASKED])
    for row in range(4):
        for question, its_mask, answer in zip(
            batch["question"][row], batch["question_mask"][row], batch["answer"][row], strict=True
        ):
            (which,) = np.flatnonzero((ids == question).all(axis=1))
            assert np.array_equal(its_mask, mask[which])
            assert answer.tolist() == np.eye(4)[which].tolist()


def test_too_many_unknown_answers_are_refused_with_the_most_frequent(source):
    unknown = data(source, EncodeAnswers(("2", "red")))
    message = (
        r"data\.train_transforms: fixed: encode_answers: 33\.3% of 120 questions have no answer in "
        r"the vocabulary of 2: 'left' \(40\)"
    )
    with pytest.raises(UserError, match=message):
        train_batches(unknown, seed=0, global_batch=4)


def test_few_unknown_answers_are_logged_and_kinds_are_heeded(source, caplog):
    caplog.set_level(logging.INFO)
    some = data(source, EncodeAnswers(("2", "red"), max_unknown=0.34))
    train_batches(some, seed=0, global_batch=4).close()
    assert "'left' (40)" in caplog.text
    caplog.clear()
    known = data(source, EncodeAnswers(("2", "red")), kinds=("count", "colour"))
    train_batches(known, seed=0, global_batch=4).close()
    assert "encode_answers" not in caplog.text


def test_a_file_of_answers(source, tmp_path):
    file = tmp_path / "answers.txt"
    file.write_text("2\nRed\nleft\nright\n")
    vqa = data(source, EncodeAnswers(VocabularyFile(str(file), size=3)))
    steps = vqa.train_transforms
    assert decode(tuple[Transform, ...], encode(steps)) == steps
    batches = train_batches(vqa, seed=0, global_batch=4)
    assert next(batches)["answer"].shape == (4, 2, 3)
    batches.close()
    for content, message in (
        ("2\nred\n", "has 2 texts, fewer than size 3"),
        ("2\nred\nRED\n", "has 'red' 2 times"),
        ('["a", 3]', "must be a list of texts"),
        ('["a", ', "not a JSON list"),
    ):
        other = tmp_path / f"{len(content)}.txt"
        other.write_text(content)
        with pytest.raises(UserError, match=f"{other.name}: {message}"):
            EncodeAnswers(VocabularyFile(str(other), size=3))(
                {"answers": (("a", 1.0),)}, np.random.default_rng(0)
            )
    # A recipe whose file is not set can be checked and shaped.
    unset = data(source, EncodeAnswers(VocabularyFile(size=7)))
    assert unset.batch_spec(2)["answer"][0] == (2, 2, 7)


@pytest.mark.parametrize(
    ("transform", "message"),
    [
        (EncodeAnswers(()), "vocabulary: is empty; name texts, or a file"),
        (EncodeAnswers(("a", "A")), "vocabulary: has 'a' 2 times"),
        (EncodeAnswers(VocabularyFile(size=0)), "vocabulary.size: must be at least 1, got 0"),
        (EncodeAnswers(("a",), max_unknown=2.0), "max_unknown: must be within 0 and 1"),
        (ChooseQuestions(0), "count: must be at least 1, or None for expanded records, got 0"),
    ],
)
def test_invalid_fields_are_named(transform, message):
    with pytest.raises(UserError, match=f"^{message}"):
        validate(transform)


def test_what_is_read_must_be_made_and_what_is_chosen_must_be_encoded(source):
    tokenizers = data(source).tokenizers
    start = (Decode(), Resize(8))
    for steps, message in (
        ((EncodeAnswers(("a",)),), "encode_answers reads 'answers', .*; put choose_questions bef"),
        ((ChooseQuestions(),), "make 'question', which nothing encodes; add tokenize"),
        ((Prompt(),), "prompt reads 'text', which no transform .* put choose_text before it"),
    ):
        problem, *_ = list_problems((*start, *steps), tokenizers)
        assert re.match(message, problem)


def test_the_vocabularies_of_a_recipe(source, tmp_path):
    file = tmp_path / "answers.txt"
    file.write_text("2\nred\nleft\n")
    vqa = data(source, EncodeAnswers(VocabularyFile(str(file), size=3)))
    first = stream_fingerprint(vqa, seed=0, global_batch=4)
    assert vqa.vocabularies() == {"answer": VocabularyFile(str(file), size=3)}
    moved = file.rename(tmp_path / "moved.txt")
    same = data(source, EncodeAnswers(VocabularyFile(str(moved), size=3)))
    moved_fields = stream_fingerprint(same, seed=0, global_batch=4)
    assert moved_fields == first
    moved.write_text("2\nleft\nred\n")
    assert stream_fingerprint(same, seed=0, global_batch=4) != first


def test_hidden_questions_are_as_many_as_shown_ones():
    shown = (Decode(), ChooseQuestions(count=3), Tokenize("question", tokenizer="text"))
    hidden = (*shown[:2], Hide("question"), shown[2])
    tokenizers = {"text": Clip(context_length=7)}
    arrays = batch_arrays(hidden, tokenizers)
    assert arrays == batch_arrays(shown, tokenizers)
    assert arrays["question"][0] == (3, 7)
