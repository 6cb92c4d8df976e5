"""Ids equal those of the reference implementations on 10,000 strings (see make_tokenizers.py)."""

import hashlib
import json
from pathlib import Path

import pytest

from tests.parity.strings import CHUNK, CONTEXT, digest, strings
from vljax.data.tokenizers import Clip, HuggingFace, SentencePiece
from vljax.datasets.builtin.vocabulary import FILE

DATA = Path(__file__).parent / "data"
REFERENCE = json.loads((DATA / "tokenizers.json").read_text())

CONFIGS = {
    "clip": Clip(context_length=CONTEXT),
    "c4_like": SentencePiece(str(DATA / "c4_like.model"), context_length=CONTEXT, cleaning="none"),
    "gemma_like": SentencePiece(
        str(DATA / "gemma_like.model"), context_length=CONTEXT, pad_id=None, cleaning="none"
    ),
    "bert_like": HuggingFace(
        str(DATA / "bert_like.json"),
        context_length=CONTEXT,
        pad_token="[PAD]",
        eos_token="[SEP]",
        bos_token="[CLS]",
        cleaning="none",
    ),
    # For a file without a template, transformers adds no end token and truncates.
    "builtin": HuggingFace(str(FILE), context_length=CONTEXT, eos_token=None, cleaning="none"),
}


@pytest.fixture(scope="module")
def texts():
    made = strings()
    assert digest(made) == REFERENCE["strings"]  # otherwise the ids would belong to other strings
    assert len(made) == 10_000
    return made


@pytest.mark.parametrize("name", CONFIGS)
def test_ids_equal_the_reference(name, texts):
    tokenizer, expected = CONFIGS[name].load(), REFERENCE[name]
    wrong = []
    for number, digest_of_ids in enumerate(expected["digests"]):
        start = number * CHUNK
        ids, _ = tokenizer(texts[start : start + CHUNK])
        if str(start) in expected["first_ids"]:
            first = expected["first_ids"][str(start)]
            assert ids[0, : len(first)].tolist() == first, ascii(texts[start])
        if hashlib.sha256(ids.astype("<i4").tobytes()).hexdigest()[:16] != digest_of_ids:
            wrong.append(f"strings {start} to {start + CHUNK - 1}")
    assert len(expected["digests"]) * CHUNK == len(texts)
    assert wrong == []
