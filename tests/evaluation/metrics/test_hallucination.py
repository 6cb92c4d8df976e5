"""POPE and CHAIR by hand; parity with their scripts is in tests/parity."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vljax.config import UserError
from vljax.evaluation.metrics.hallucination import chair, mentioned_objects, pope, synonym_table

POLL = st.tuples(st.sampled_from(["Yes", "no"]), st.sampled_from(["yes", "no"]))


def test_a_model_that_never_says_yes_divides_nothing_by_zero():
    assert pope(["No", "no"], ["yes", "no"]) == (0.5, 0.0, 0.0, 0.0, 0.0)
    assert pope(["yes"], ["no"]) == (0.0, 0.0, 0.0, 0.0, 1.0)


@given(st.lists(POLL, min_size=1))
def test_pope_equals_its_definition(rows):
    answers, labels = zip(*rows, strict=True)
    found = pope(answers, labels)
    right = [(a == "Yes") == (label == "yes") for a, label in rows]
    assert found.accuracy == pytest.approx(sum(right) / len(rows), abs=1e-12)
    # F1 = 2 TP / (2 TP + FP + FN)
    true_yes = sum(ok and a == "Yes" for ok, (a, _) in zip(right, rows, strict=True))
    wrong = len(rows) - sum(right)
    f1 = 2 * true_yes / (2 * true_yes + wrong) if true_yes else 0.0
    assert found.f1 == pytest.approx(f1, abs=1e-12)


def test_no_mention_is_no_hallucination():
    assert tuple(chair([[], []], [{"cat"}, set()]))[:2] == (0.0, 0.0)


def test_a_mention_counts_each_time_and_a_caption_once():
    found = chair([["dog", "dog", "cat"], ["cat"]], [{"cat"}, {"cat"}])
    assert (found.sentence, found.instance) == (0.5, 0.5)


def test_the_later_line_of_a_word_and_spaces_are_as_officially():
    table = synonym_table(["bus, coach,  minibus", "car, coach "])
    assert table["coach"] == "car"
    assert "minibus" not in table  # the table has it with a space before it
    assert mentioned_objects(["coach", "minibus", "bus"], table) == ["car", "bus"]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: pope([], []), "answers: there are none"),
        (lambda: pope(["yes"], ["Yes"]), r"labels\[0\] is 'Yes'; it must be 'yes' or 'no'"),
        (lambda: chair([[]], []), "mentions has 1 entries and present has 0"),
        (lambda: synonym_table(["\n"]), "synonyms: there are none"),
    ],
)
def test_bad_input_is_named(call, message):
    with pytest.raises(UserError, match=message):
        call()
