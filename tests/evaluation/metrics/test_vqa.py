"""Scores of answers by hand, against definitions, and their errors; parity is in tests/parity."""

import functools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vljax.config import UserError
from vljax.evaluation.metrics.checks import matched
from vljax.evaluation.metrics.vqa import (
    CONTRACTIONS,
    anls,
    exact_match,
    levenshtein,
    normalise_answer,
    relaxed_accuracy,
    vqa_accuracy,
)

TEXT = st.text(st.sampled_from("ab A.,-'1\n"), max_size=8)
MANY = st.lists(TEXT, min_size=1, max_size=4)


@pytest.mark.parametrize(
    ("agree", "score"), [(0, 0.0), (1, 0.3), (2, 0.6), (3, 0.9), (4, 1.0), (10, 1.0)]
)
def test_each_person_is_left_out_once(agree, score):
    """Three of ten: left out once each, two of the others agree: (3 * 2/3 + 7 * 1) / 10 = 0.9."""
    people = ["cat"] * agree + [f"other {i}" for i in range(10 - agree)]
    assert vqa_accuracy("cat", people) == pytest.approx(score, abs=1e-12)


def test_punctuation_depends_on_spaces_and_on_commas_between_digits():
    assert normalise_answer("red-haired") == "red haired"
    assert normalise_answer("red -haired") == "red haired"
    assert normalise_answer("t-shirt - red") == "tshirt red"  # beside a space once: gone everywhere
    assert normalise_answer("1,000-2") == "10002"
    assert normalise_answer("3.5 in.") == "3.5 in"


def test_the_number_of_removed_periods_is_a_quirk():
    assert normalise_answer("." * 40) == "." * 8
    assert normalise_answer("." * 40, periods=None) == ""
    assert normalise_answer("..", periods=0) == ".."


def test_contractions_are_as_many_as_in_the_official_table():
    """All but the two that map a word to itself."""
    assert len(CONTRACTIONS) == 118
    assert CONTRACTIONS["couldn'tve"] == CONTRACTIONS["couldnt've"] == "couldn't've"
    assert "lets" not in CONTRACTIONS


@given(TEXT, st.lists(TEXT, min_size=10, max_size=10), st.randoms(use_true_random=False))
def test_the_order_of_people_does_not_matter(answer, people, random):
    mixed = random.sample(people, len(people))
    assert vqa_accuracy(answer, people) == pytest.approx(vqa_accuracy(answer, mixed), abs=1e-12)


@given(TEXT, TEXT, TEXT)
def test_levenshtein_is_a_metric_and_equals_its_recursive_definition(a, b, c):
    @functools.cache
    def slow(i, j):
        if not i or not j:
            return i + j
        changed = slow(i - 1, j - 1) + (a[i - 1] != b[j - 1])
        return min(changed, slow(i - 1, j) + 1, slow(i, j - 1) + 1)

    assert levenshtein(a, b) == levenshtein(b, a) == slow(len(a), len(b))
    assert levenshtein(a, c) <= levenshtein(a, b) + levenshtein(b, c)


@given(TEXT, MANY)
def test_anls_equals_the_published_steps(answer, references):
    """Distance on lower-cased texts with single spaces, length of the upper-cased raw ones."""
    values = []
    for text in references:
        ours, theirs = (" ".join(t.strip().lower().split()) for t in (answer, text))
        length = max(len(text.upper()), len(answer.upper()))
        values.append(levenshtein(ours, theirs) / length if length else 0.0)
    score = 1 - min(values)
    assert anls(answer, references) == (0 if score < 0.5 else score)


def test_spaces_that_do_not_count_in_the_distance_count_in_the_length():
    assert anls("a   b", ["a c"]) == 1 - 1 / 5
    assert anls("a   b", ["a c"], length="normalised") == 1 - 1 / 3
    assert anls("ß", ["s"]) == 0.5  # "SS" has two letters


@given(TEXT, MANY)
def test_more_references_never_lower_a_score(answer, references):
    for metric in (anls, relaxed_accuracy, exact_match):
        assert metric(answer, references) >= metric(answer, references[:1])
        assert metric(references[0], references) == 1.0


@pytest.mark.parametrize(
    ("answer", "reference", "score"),
    [
        ("105", "100", 1.0),
        ("105.01", "100", 0.0),
        ("0.0", "0", 0.0),  # the reference is falsy, so texts are compared
        ("50%", "0.5", 1.0),
        ("nan", "1", 0.0),
    ],
)
def test_relaxed_accuracy(answer, reference, score):
    assert relaxed_accuracy(answer, [reference]) == score


@pytest.mark.parametrize("metric", [vqa_accuracy, anls, relaxed_accuracy, exact_match])
def test_no_reference_is_an_error(metric):
    with pytest.raises(UserError, match="there are none"):
        metric("cat", [])


@pytest.mark.parametrize(
    ("predictions", "references", "message"),
    [
        ([], {1: "a"}, "predictions: there are none"),
        ([(1, "a"), (1, "b")], {1: "a"}, "predictions: id 1 is there 2 times"),
        ([(1, "a")], {1: "a", 2: "b"}, "predictions: has no entry for 1 of 2 ids of references"),
        ([(1, "a"), (2, "b")], {1: "a"}, "references: has no entry for 1 of 2 ids of predictions"),
    ],
)
def test_predictions_that_do_not_match_references_are_named(predictions, references, message):
    with pytest.raises(UserError, match=message):
        matched(predictions, references)
