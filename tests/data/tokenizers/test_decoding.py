"""Texts of ids, and the roles of special tokens."""

import io
import string

import numpy as np
import pytest
import sentencepiece
import tokenizers
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import models, pre_tokenizers

from vljax.data.tokenizers import Clip, HuggingFace, SentencePiece
from vljax.datasets.builtin.vocabulary import FILE as BUILTIN_VOCABULARY

CORPUS = ["a photo of a cat", "two dogs play", string.ascii_lowercase, string.digits] * 20
TEXTS = st.text(string.ascii_lowercase + string.digits + string.punctuation + " ", max_size=40)


@pytest.fixture(scope="module")
def pieces(tmp_path_factory):
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter([*CORPUS, *string.punctuation]),
        model_writer=model,
        vocab_size=90,
        character_coverage=1.0,
        hard_vocab_limit=False,
        pad_id=0,
        eos_id=1,
        unk_id=2,
        bos_id=3,
        user_defined_symbols=["<mask>"],
        minloglevel=2,
    )
    path = tmp_path_factory.mktemp("pieces") / "spiece.model"
    path.write_bytes(model.getvalue())
    return str(path)


@pytest.fixture(scope="module")
def words(tmp_path_factory):
    """A WordPiece vocabulary like BERT's, without a decoder."""
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    characters = [*string.ascii_lowercase, *string.digits, *string.punctuation]
    known = [*special, *characters, *(f"##{c}" for c in characters), "cat", "##ing"]
    tokenizer = tokenizers.Tokenizer(
        models.WordPiece({word: i for i, word in enumerate(known)}, unk_token="[UNK]")
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.add_special_tokens(special)
    path = tmp_path_factory.mktemp("words") / "tokenizer.json"
    tokenizer.save(str(path))
    return str(path)


@pytest.fixture(scope="module")
def loaded(pieces, words):
    bert = {"pad_token": "[PAD]", "bos_token": "[CLS]", "eos_token": "[SEP]"}
    builtin = str(BUILTIN_VOCABULARY)
    configs = {
        "clip": Clip(context_length=120),
        "clip, left": Clip(context_length=120, padding_side="left"),
        "builtin": HuggingFace(builtin, context_length=120, cleaning="lower"),
        "builtin, left, no end": HuggingFace(
            builtin, context_length=120, eos_token=None, cleaning="lower", padding_side="left"
        ),
        "bert": HuggingFace(words, context_length=120, cleaning="none", **bert),
        "pieces": SentencePiece(pieces, context_length=120, cleaning="none"),
        "pieces, left": SentencePiece(
            pieces, context_length=120, cleaning="none", padding_side="left", add_bos=True
        ),
        "pieces, own pad": SentencePiece(
            pieces, context_length=120, cleaning="none", pad_id=None, add_eos=False
        ),
    }
    return {name: config.load() for name, config in configs.items()}


def squeezed(text):
    return "".join(text.split())


@given(texts=st.lists(TEXTS, min_size=1, max_size=4))
def test_the_text_of_ids_is_the_cleaned_text_up_to_white_space(loaded, texts):
    for name, tokenizer in loaded.items():
        decoded = tokenizer.decode(tokenizer(texts)[0])
        for text, found in zip(texts, decoded, strict=True):
            if "<mask>" in text or "[" in text:  # may name a special token
                continue
            assert squeezed(found) == squeezed(tokenizer.clean(text)), name


def test_words_stay_apart(loaded):
    for tokenizer in loaded.values():
        assert tokenizer.decode(tokenizer(["a photo of two dogs"])[0]) == ["a photo of two dogs"]


def test_nothing_follows_the_first_end_token(loaded):
    tokenizer = loaded["builtin"]
    ids, _ = tokenizer(["a cat", ""])
    ids[0, -1] = ids[0, 0]
    assert tokenizer.decode(ids.astype(np.int64)) == ["a cat", ""]


def test_special_tokens_by_role(loaded, pieces, words):
    clip = loaded["clip"].special
    assert (clip.pad, clip.bos, clip.eos) == (0, 49406, 49407)
    assert (clip.mask, clip.cls, clip.sep) == (None, None, None)
    bert, own = loaded["bert"].special, tokenizers.Tokenizer.from_file(words).token_to_id
    assert (bert.pad, bert.bos, bert.eos) == (own("[PAD]"), own("[CLS]"), own("[SEP]"))
    assert (bert.mask, bert.cls, bert.sep) == (own("[MASK]"), own("[CLS]"), own("[SEP]"))
    processor = sentencepiece.SentencePieceProcessor(model_file=pieces)
    found = loaded["pieces, own pad"].special
    assert (found.pad, found.bos, found.eos) == (0, 3, 1)
    assert found.mask == processor.piece_to_id("<mask>")
    assert (found.cls, found.sep) == (None, None)
    assert loaded["pieces"].special.pad == 1  # the recipe's
    assert loaded["builtin, left, no end"].special.eos == 1  # in the vocabulary, but not added


def test_special_tokens_are_left_out_of_texts(loaded):
    for name in ("bert", "pieces"):
        tokenizer = loaded[name]
        ids = tokenizer(["a cat"])[0]
        hidden = np.insert(ids, 2, tokenizer.special.mask, axis=1)
        assert tokenizer.decode(hidden) == tokenizer.decode(ids)
