"""CLIP's encoders in Python and Rust give the same ids; the vocabulary is read back in full."""

import hashlib

import numpy as np
import pytest
from instant_clip_tokenizer import Tokenizer

from tests.parity.strings import strings
from vljax.data.tokenizers import Clip
from vljax.data.tokenizers.clip_bpe import ClipBpe


@pytest.fixture(scope="module")
def words():
    return ClipBpe.from_decode(Tokenizer().decode)


def test_each_token_of_the_vocabulary_is_read_back(words):
    # From open_clip's bpe_simple_vocab_16e6.txt.gz: SimpleTokenizer.decoder as bytes, a space for
    # the end of a word.
    tokens = sorted(words._ids, key=words._ids.get)
    assert len(tokens) == 49_406
    assert hashlib.sha256(b"\n".join(tokens)).hexdigest() == (
        "853b3f978c2aaabdc74fea473ba4c826d525f2040600345f6bfb1c3cae0c5696"
    )


def test_each_token_is_merged_from_its_bytes(words):
    for token, number in words._ids.items():
        if token.endswith(b" ") and token != b" ":
            try:
                word = token[:-1].decode()
            except UnicodeDecodeError:
                continue
            assert words._encode_word(word) == [number]


def test_python_and_rust_give_the_same_ids(words):
    clip, compared = Clip(cleaning="lower").load(), 0
    for text in strings()[2500:4500]:
        cleaned = clip.clean(text)
        if cleaned.isascii() and "start_of" not in cleaned:
            assert words.encode(cleaned) == clip._encode(cleaned)
            compared += 1
    assert compared > 1000


def test_special_tokens_inside_a_text_are_tokens(words):
    assert words.encode("a <end_of_text> b") == [320, 49407, 321]
    assert words.encode("<start_of_text>") == [49406]


def test_words_of_any_length_have_the_ids_of_the_rust_library(words):
    rng = np.random.default_rng(0)
    for length, letters in ((1, "a"), (2, "ab"), (50, "aab"), (1500, "etaoinsh"), (2500, "aé日")):
        word = "".join(rng.choice([*letters], length))
        assert words.encode(word) == Tokenizer().encode(word)


def test_the_work_grows_with_the_length_of_a_word_and_not_with_its_square():
    class Counting(dict):
        looked_up = 0

        def get(self, key):
            Counting.looked_up += 1
            return super().get(key)

    rng = np.random.default_rng(0)
    ids = Counting(ClipBpe.from_decode(Tokenizer().decode)._ids)
    counts = []
    for length in (2000, 4000, 8000):
        Counting.looked_up = 0
        ClipBpe(ids)._encode_word("".join(rng.choice([*"etaoinshrdlu"], length)))
        counts.append(Counting.looked_up / length)
    assert max(counts) < 1.05 * min(counts)
