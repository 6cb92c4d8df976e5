"""The tokenizer of scenes equals the one that its script trains, and keeps words whole."""

import numpy as np

from vljax.data.tokenizers import HuggingFace
from vljax.datasets.scenes.vocabulary import FILE, train


def test_the_script_makes_the_committed_file():
    assert train() == FILE.read_text()


def test_words_of_questions_are_one_token():
    tokenizer = HuggingFace(str(FILE), context_length=20, cleaning="lower").load()
    questions = ["How many objects are there?", "Is there an apple?", "What is above the dog?"]
    _, mask = tokenizer(questions)
    # The words, the question mark and the end token.
    assert np.sum(mask, axis=1).tolist() == [7, 6, 7]
