"""Tokenizer and caption metrics on random texts, compared with the official scorers live.

Needs a Java runtime and pycocoevalcap, and is skipped without them:

    apt-get install default-jre-headless
    pip install -c constraints.txt -e '.[test,captions-meteor]' pycocotools
    pytest tests/parity/test_live_captions.py
"""

# ruff: noqa: E402  what is missing has to be told before it is imported

import random
import shutil

import numpy as np
import pytest

for package in ("pycocoevalcap", "snowballstemmer"):
    pytest.importorskip(package, reason=f"no {package}: pip install 'vljax[captions-meteor]'")
if shutil.which("java") is None:
    pytest.skip("no Java: apt-get install default-jre-headless", allow_module_level=True)

from hypothesis import given, settings
from hypothesis import strategies as st

from tests.parity import official_captions as official
from tests.parity.caption_texts import MARKS, SPECIAL, caption, corpus
from vljax.evaluation.metrics.captions import bleu, cider_d, rouge_l, tokenize_captions
from vljax.evaluation.metrics.meteor import meteor
from vljax.evaluation.metrics.ptb import ptb_tokenize

pieces = st.sampled_from([*SPECIAL, *MARKS, *"abcdeinstmrABCNTSO0123456789 éßΩ北", " ", " "])
texts = st.one_of(
    st.lists(pieces, max_size=8).map("".join),
    st.lists(st.sampled_from([*SPECIAL, *MARKS]), max_size=8).map(" ".join),
    st.integers(0, 1 << 30).map(lambda seed: caption(random.Random(seed), special=0.4)),
)


# A start of the tokenizer takes half a second, so each example has many texts. Soft hyphens are
# tested as parts of words; next to punctuation a few of them differ.
@settings(max_examples=20, deadline=None)
@given(st.lists(texts.filter(lambda text: "\u00ad" not in text), min_size=60, max_size=60))
def test_tokens_of_random_texts(captions):
    ours = [list(tokens) for tokens in ptb_tokenize(captions, separate=True)]
    for text, mine, theirs in zip(captions, ours, official.separate_tokens(captions), strict=True):
        assert mine == theirs, text


@settings(max_examples=8, deadline=None)
@given(st.integers(0, 1 << 30), st.integers(1, 40), st.sampled_from([0, 1, 5]))
def test_scores_of_random_sets(seed, examples, references):
    given_ = corpus(seed, examples, references)
    given_["references"][0][0] += " dog"  # the official CIDEr-D fails if all references are empty
    captions = tokenize_captions(**given_)
    ours = [" ".join(tokens) for tokens in captions.candidates]
    theirs = [[" ".join(tokens) for tokens in row] for row in captions.references]
    flat = official.tokenize([text for row in given_["references"] for text in row])
    assert ours == official.tokenize(given_["candidates"])
    assert [text for row in theirs for text in row] == flat
    expected = official.scores(ours, theirs)
    arguments = captions.candidates, captions.references
    for score in (*bleu(*arguments), rouge_l(*arguments), cider_d(*arguments)):
        assert score.corpus == pytest.approx(expected[score.name][0], abs=1e-6)
        np.testing.assert_allclose(score.examples, expected[score.name][1], atol=1e-6, rtol=0)


@settings(max_examples=2, deadline=None)
@given(st.integers(0, 1 << 30))
def test_meteor_of_random_sets(seed):
    given_ = corpus(seed, 100, 3)
    captions = tokenize_captions(**given_)
    ours = [" ".join(tokens) for tokens in captions.candidates]
    theirs = [[" ".join(tokens) for tokens in row] for row in captions.references]
    total, examples = official.meteor(ours, theirs)
    score = meteor(captions.candidates, captions.references)
    assert score.corpus == pytest.approx(total, abs=1e-4)
    # About one alignment in a thousand is another one of two that are equally good.
    assert np.mean(np.abs(score.examples - examples) > 1e-4) <= 0.02
