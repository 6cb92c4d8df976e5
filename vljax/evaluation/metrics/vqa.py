"""Answers to questions as texts: VQA accuracy, ANLS, relaxed accuracy, exact match.

Each function scores one answer, in [0, 1]. The metric of a set is the mean over its questions;
`checks.matched` pairs predictions with references by id.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Literal

from vljax.evaluation.metrics.checks import check_choice, check_texts

# The official script has tables. Its contractions are written here by their result: each apostrophe
# of a word may be missing, one at a time. Words that do not follow that rule stand below.
_CONTRACTED = """
    ain't aren't can't could've couldn't couldn't've didn't doesn't don't hadn't hadn't've hasn't
    haven't he'd he'd've he's how'd how'll how's I'd've I'm I've isn't it'd it'd've it'll ma'am
    mightn't mightn't've might've mustn't must've needn't not've o'clock oughtn't 'ow's'at shan't
    she'd've should've shouldn't shouldn't've somebody'd've somebody'll somebody's someone'd
    someone'd've someone'll someone's something'd something'd've something'll that's there'd
    there'd've there're there's they'd they'd've they'll they're they've 'twas wasn't we'd've we've
    weren't what'll what're what's what've when's where'd where's where've who'd who'd've who'll
    who's who've why'll why're why's won't would've wouldn't wouldn't've y'all y'all'll y'all'd've
    you'd you'd've you'll you're you've
"""
# Lower-cased texts never hold the keys with a capital I, so those do nothing, as officially.
CONTRACTIONS = {
    word[:i] + word[i + 1 :]: word
    for word in _CONTRACTED.split()
    for i, character in enumerate(word)
    if character == "'"
} | {"somebody'd": "somebodyd"}
"""Word -> word with all its apostrophes, as the official script spells it."""

_NUMBERS = "none one two three four five six seven eight nine ten"
_DIGITS = {name: str(i) for i, name in enumerate(_NUMBERS.split())} | {"zero": "0"}
_ARTICLES = {"a", "an", "the"}
_PUNCTUATION = ';/[]"{}()=+\\_-><@`,?!'
_DIGIT_COMMA_DIGIT = re.compile(r"\d,\d")
# The official pattern, `(?!<=\d)(\.)(?!\d)`, means to look behind for a digit and does not: a
# period stays only before a digit.
_PERIOD = re.compile(r"\.(?!\d)")

OFFICIAL_PERIODS = 32
"""`re.sub` was given `re.UNICODE`, which is 32, as the largest number of replacements."""


def normalise_answer(text: str, *, periods: int | None = OFFICIAL_PERIODS) -> str:
    """An answer as VQA accuracy compares it: punctuation, case, numbers, articles, contractions.

    From `processPunctuation` and `processDigitArticle` of `vqaEval.py` (VQA v2). A punctuation mark
    disappears if the text has it beside a space, or has a comma between digits anywhere; otherwise
    it becomes a space.

    >>> normalise_answer("The two red-haired dogs, dont you see.")
    "2 red haired dogs don't you see"

    Args:
      text: the answer.
      periods: how many periods are removed at most; None for all. The official script removes 32,
        by mistake.
    """
    cleared = text
    everywhere = _DIGIT_COMMA_DIGIT.search(text) is not None
    for mark in _PUNCTUATION:
        beside_space = f"{mark} " in text or f" {mark}" in text
        cleared = cleared.replace(mark, "" if beside_space or everywhere else " ")
    if periods != 0:
        cleared = _PERIOD.sub("", cleared, count=periods or 0)
    words = (_DIGITS.get(word, word) for word in cleared.lower().split())
    return " ".join(CONTRACTIONS.get(word, word) for word in words if word not in _ARTICLES)


def vqa_accuracy(
    answer: str,
    people: Sequence[str],
    *,
    normalise: Literal["if_different", "always"] = "if_different",
    periods: int | None = OFFICIAL_PERIODS,
) -> float:
    """Agreement of an answer with those of people, in [0, 1].

    The mean, over the people, of min(n / 3, 1), where n of the others gave this answer (Goyal et
    al. 2017; `vqaEval.py` of VQA v2 at commit a013f00). Line breaks and tabs become spaces and the
    ends are stripped in all texts. Everything else (`normalise_answer`) happens only if the
    people's answers are not all equal by then; so "Yes" is wrong where all ten wrote "yes".

    >>> people = ["two"] * 2 + ["2"] * 2 + ["3"] * 6
    >>> round(vqa_accuracy("Two.", people), 6)
    1.0
    >>> vqa_accuracy("Yes", ["yes"] * 10)
    0.0
    >>> vqa_accuracy("Yes", ["yes"] * 10, normalise="always")
    1.0

    Args:
      answer: what the model says.
      people: the answers of the people, ten in VQA v2. An answer that two people gave stands there
        twice.
      normalise: "if_different" as officially, or "always" as some harnesses do.
      periods: see `normalise_answer`.

    Raises:
      UserError: if there are no people's answers, or they are one text.
    """
    check_texts(people, "people")
    check_choice(normalise, "normalise", "if_different", "always")
    given, *truth = (_plain(text) for text in (answer, *people))
    if normalise == "always" or len(set(truth)) > 1:
        given, *truth = (normalise_answer(text, periods=periods) for text in (given, *truth))
    agree = sum(text == given for text in truth)
    scores = [min(1.0, (agree - (text == given)) / 3) for text in truth]
    return sum(scores) / len(scores)


def _plain(text: str) -> str:
    return text.replace("\n", " ").replace("\t", " ").strip()


def anls(
    answer: str,
    references: Sequence[str],
    *,
    threshold: float = 0.5,
    at: Literal["right", "wrong"] = "right",
    length: Literal["raw", "normalised"] = "raw",
) -> float:
    """Average normalised Levenshtein similarity of one answer, in [0, 1].

    1 - distance / length for the nearest reference, and 0 if that is below the threshold; exactly
    0.5 counts (Biten et al. 2019; the evaluation script of DocVQA and InfographicVQA). The distance
    is between lower-cased texts with single spaces. The length is officially that of the longer
    text as it was, upper-cased, so spaces that do not count in the distance make a text longer.

    >>> anls("Coffee  shop", ["coffee shops", "tea"])
    0.9166666666666666
    >>> anls("ab", ["acxy"]), anls("abxx", ["abyy"])
    (0.0, 0.5)

    Args:
      answer: what the model says.
      references: the right answers.
      threshold: similarities below it are 0.
      at: "right" if the threshold itself counts, as officially; "wrong" as in pix2struct.
      length: "raw" as officially, or "normalised": the length of the texts that are compared, as
        in pix2struct.

    Raises:
      UserError: if there are no references, or they are one text.
    """
    check_texts(references, "references")
    check_choice(at, "at", "right", "wrong")
    check_choice(length, "length", "raw", "normalised")
    best = max(_levenshtein_similarity(answer, other, length) for other in references)
    counts = best >= threshold if at == "right" else best > threshold
    return best if counts else 0.0


def _levenshtein_similarity(a: str, b: str, length: str) -> float:
    plain_a, plain_b = (" ".join(text.strip().lower().split()) for text in (a, b))
    measured = (a.upper(), b.upper()) if length == "raw" else (plain_a, plain_b)
    longest = max(map(len, measured))
    return 1 - (levenshtein(plain_a, plain_b) / longest if longest else 0.0)


def levenshtein(a: str, b: str) -> int:
    """The fewest insertions, deletions and substitutions of characters that turn `a` into `b`.

    >>> levenshtein("kitten", "sitting")
    3
    """
    if len(a) > len(b):
        a, b = b, a
    row = list(range(len(a) + 1))
    for i, there in enumerate(b, start=1):
        diagonal, row[0] = row[0], i
        for j, here in enumerate(a, start=1):
            kept = diagonal if here == there else 1 + min(diagonal, row[j], row[j - 1])
            diagonal, row[j] = row[j], kept
    return row[-1]


def relaxed_accuracy(answer: str, references: Sequence[str], *, tolerance: float = 0.05) -> float:
    """1 if a number is within 5 % of a reference, or a text equals one in lower case; else 0.

    For ChartQA (Masry et al. 2022, section 5.1; `relaxed_correctness` of pix2struct). A text that
    ends with "%" is a number divided by 100. Quirk, kept: for the reference 0 the texts must be
    equal, so "0.0" is wrong.

    >>> relaxed_accuracy("104", ["100"]), relaxed_accuracy("106", ["100"])
    (1.0, 0.0)
    >>> relaxed_accuracy("52%", ["0.5"]), relaxed_accuracy("Red", ["red"])
    (1.0, 1.0)

    Args:
      answer: what the model says.
      references: the right answers; the best one counts.
      tolerance: the largest relative difference.

    Raises:
      UserError: if there are no references, or they are one text.
    """
    check_texts(references, "references")
    return max(float(_relaxed_match(answer, other, tolerance)) for other in references)


def _relaxed_match(answer: str, reference: str, tolerance: float) -> bool:
    given, right = _number(answer), _number(reference)
    if given is not None and right:
        return abs(given - right) / abs(right) <= tolerance
    return answer.lower() == reference.lower()


def _number(text: str) -> float | None:
    try:
        return float(text.rstrip("%")) / 100.0 if text.endswith("%") else float(text)
    except ValueError:
        return None


def exact_match(
    answer: str, references: Sequence[str], *, case: Literal["kept", "lowered"] = "kept"
) -> float:
    """1 if the answer equals one of the references, else 0 (`exact_match` of pix2struct).

    >>> exact_match("Red", ["red", "pink"]), exact_match("Red", ["red"], case="lowered")
    (0.0, 1.0)

    Args:
      answer: what the model says.
      references: the right answers.
      case: "kept" as in pix2struct; "lowered" also takes single spaces, without those at the ends.

    Raises:
      UserError: if there are no references, or they are one text.
    """
    check_texts(references, "references")
    check_choice(case, "case", "kept", "lowered")
    if case == "lowered":
        answer, *references = (" ".join(text.lower().split()) for text in (answer, *references))
    return float(answer in references)
