"""Caption metrics against stored outputs of the official scorers (parity/make_captions.py)."""

import importlib.util
import json
import re
from pathlib import Path

import jaxtyping
import numpy as np
import pytest

from vljax.config import UserError
from vljax.evaluation.metrics.captions import bleu, cider_d, rouge_l, tokenize_captions
from vljax.evaluation.metrics.meteor import _hashes, meteor
from vljax.evaluation.metrics.ptb import ptb_tokenize

STORED = json.loads(
    (Path(__file__).parents[2] / "parity" / "data" / "captions.json").read_text("utf-8")
)
STEMMER = pytest.mark.skipif(
    importlib.util.find_spec("snowballstemmer") is None,
    reason="no snowballstemmer: pip install 'vljax[captions-meteor]'",
)
TABLES = pytest.mark.skipif(
    importlib.util.find_spec("pycocoevalcap") is None,
    reason="no pycocoevalcap: pip install 'vljax[captions-meteor]'",
)
sets = pytest.mark.parametrize("stored", STORED["sets"], ids=lambda s: str(len(s["candidates"])))


def compare(score, stored, tolerance):
    corpus, examples = stored["scores"][score.name]
    assert score.corpus == pytest.approx(corpus, abs=tolerance, rel=0)
    np.testing.assert_allclose(score.examples, examples, atol=tolerance, rtol=0)


def test_tokens_are_those_of_the_official_tokenizer():
    found = ptb_tokenize(STORED["captions"], separate=True)
    assert [" ".join(tokens) for tokens in found] == STORED["tokens"]


@sets
def test_tokens_of_a_set_are_official(stored):
    found = tokenize_captions(stored["candidates"], stored["references"])
    ours, theirs = stored["tokens"]
    assert [" ".join(tokens) for tokens in found.candidates] == ours
    assert [[" ".join(tokens) for tokens in row] for row in found.references] == theirs


@sets
def test_bleu_rouge_and_cider_are_official(stored):
    captions = stored["candidates"], stored["references"]
    for score in (*bleu(*captions), rouge_l(*captions), cider_d(*captions)):
        compare(score, stored, 1e-12)


@STEMMER
@sets
def test_meteor_without_tables_is_official(stored):
    compare(meteor(stored["candidates"], stored["references"], tables=False), stored, 1e-4)


@STEMMER
@TABLES
def test_meteor_is_official():
    # The paraphrases are read once, for all sets together.
    stored = STORED["sets"][-1]
    compare(meteor(stored["candidates"], stored["references"]), stored, 1e-4)


def test_the_next_caption_decides_on_the_period_of_an_initial():
    assert ptb_tokenize(["plan b.", "The man"])[0] == ("plan", "b")
    assert ptb_tokenize(["plan b.", "a man"])[0] == ("plan", "b.")
    assert ptb_tokenize(["plan b.", "The man"], separate=True)[0] == ("plan", "b.")


def test_line_breaks_in_a_caption_are_spaces():
    assert ptb_tokenize(["a\nb\r\nc\u2028d\x85e"]) == [("a", "b", "c", "d", "e")]


def test_tokens_are_taken_as_they_are():
    texts = rouge_l(["A dog."], [["the Dog", "a dog"]])
    tokens = rouge_l([["a", "dog"]], [[("the", "dog"), ["a", "dog"]]])
    assert texts.corpus == tokens.corpus == 1.0


def test_quirks_can_be_switched_off():
    assert rouge_l([""], [[""]]).corpus == 1.0
    assert rouge_l([""], [[""]], empty_matches_empty=False).corpus == 0.0
    # Precision 1 with the first reference and recall 1 with the second.
    captions = ["a b"], [["a b c d e f"]]
    assert rouge_l(*captions, best="together").corpus == rouge_l(*captions).corpus
    several = ["a b"], [["a b c d e f", "a"]]
    assert rouge_l(*several, best="together").corpus < rouge_l(*several).corpus == 1.0
    # Candidate of 3 words; reference lengths 1, 4 and 7.
    lengths = ["a b c"], [["a", "a b c d", "a b c d e f g"]]
    closest, shortest, average = (
        bleu(*lengths, reference_length=which)[0].corpus
        for which in ("closest", "shortest", "average")
    )
    assert closest == average == pytest.approx(np.exp(1 - 4 / 3))
    assert shortest == pytest.approx(1.0)
    corpus = ["", "b b c"], [["a"], ["b c"]]
    assert cider_d(*corpus, clip=False).examples[1] > cider_d(*corpus).examples[1]


@pytest.fixture
def as_users_run_it():
    """Without the run-time type checks of the tests, which users do not have."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


@pytest.mark.usefixtures("as_users_run_it")
@pytest.mark.parametrize("metric", [bleu, rouge_l, cider_d, meteor])
@pytest.mark.parametrize(
    ("candidates", "references", "message"),
    [
        ([], [], "candidates: there are no predictions to score; give at least one caption"),
        (["a"], [["b"], ["c"]], "candidates: example 1 has references without a prediction"),
        (["a", "b"], [["c"]], "references: example 1 has none (2 candidates"),
        (["a", "b"], [["c"], []], "references: example 1 has none; give it at least one"),
        (["a"], ["b"], "references: those of example 0 are one text; give a sequence"),
        ("a", [["b"]], "candidates: is one text; give a sequence"),
        (
            {7: "a"},
            [["b"]],
            "candidates: is a dict; give a sequence with an entry for each example",
        ),
        (["a"], {7: ["b"]}, "references: is a dict; give a sequence with an entry"),
        (["a", None], [["b"], ["c"]], "candidates[1]: is None; a caption is a text or"),
        (["a"], [["b", 3]], "references[0][1]: is 3; a caption is a text or a sequence of tokens"),
    ],
)
def test_bad_input_is_named(metric, candidates, references, message):
    with pytest.raises(UserError) as error:
        metric(candidates, references)
    assert str(error.value).startswith(message)
    assert len(error.value.lines) == 1


@pytest.mark.usefixtures("as_users_run_it")
@pytest.mark.parametrize(
    ("metric", "options", "message"),
    [
        (bleu, {"max_order": 0}, "max_order: must be at least 1, got 0"),
        (bleu, {"reference_length": "closes"}, "reference_length: unknown value 'closes'; did you"),
        (rouge_l, {"best": "both"}, "best: unknown value 'both'; known: separate, together"),
        (cider_d, {"max_order": 0}, "max_order: must be at least 1, got 0"),
        (cider_d, {"sigma": 0}, "sigma: must be above 0, got 0"),
        (meteor, {"beam": 0}, "beam: must be at least 1, got 0"),
        (meteor, {"weights": (1.0,)}, "weights: must be 4, one for each stage, got 1"),
    ],
)
def test_options_out_of_range(metric, options, message):
    with pytest.raises(UserError, match=re.escape(message)):
        metric(["a"], [["a"]], **options)


@STEMMER
@TABLES
def test_paraphrases_are_read_once(monkeypatch):
    captions = ["a man is on a bike"], [["a guy on a bicycle", "the man"]]
    score = meteor(*captions)
    monkeypatch.setattr("vljax.evaluation.metrics.meteor.zlib", None)
    assert meteor(*captions).corpus == score.corpus


def test_hashes_tell_phrases_of_a_buffer_apart():
    """Each part of a text has the same hash as elsewhere, and another one than other parts."""
    words = ["a", "b", "ab", "", "\0", "a\0", "sitting on", "sitting in", "sitting on the edge of"]
    hashes = []
    for text in ("|".join(words), "before " + "|".join(words) + " after"):
        offset = len("before ") if text.startswith("before") else 0
        ends = np.cumsum([len(word) + 1 for word in words]) - 1 + offset
        starts = ends - [len(word) for word in words]
        assert [text[a:b] for a, b in zip(starts, ends, strict=True)] == words
        hashes.append(_hashes(text.encode(), starts, ends).tolist())
    assert hashes[0] == hashes[1]
    assert len(set(hashes[0])) == len(words)
