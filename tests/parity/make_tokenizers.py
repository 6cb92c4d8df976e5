"""Makes tests/parity/data/tokenizers.json and the small vocabularies beside it.

    pip install 'vljax[parity]'
    python tests/parity/make_tokenizers.py

The ids are those of open_clip's SimpleTokenizer, of `sentencepiece`, and of transformers reading a
`tokenizer.json`, on all of `strings.strings()`. Ids in bulk are kept as digests of 250 strings
each, with the ids of some short strings beside them to look at when a digest differs.
"""

from __future__ import annotations

import functools
import hashlib
import io
import json
import sys
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import sentencepiece
from strings import CHUNK, CONTEXT, digest, strings
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers

DATA = Path(__file__).parent / "data"
PACKAGES = ("open_clip_torch", "ftfy", "regex", "sentencepiece", "tokenizers", "transformers")
BUILTIN = Path(__file__).parents[2] / "vljax/datasets/builtin"


def train_sentencepiece(texts: list[str], **options: object) -> bytes:
    """A SentencePiece model as bytes."""
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=(text for text in texts if "\x00" not in text),
        model_writer=model,
        num_threads=1,
        character_coverage=0.98,
        minloglevel=2,
        hard_vocab_limit=False,
        **options,
    )
    return model.getvalue()


def c4_like(texts: list[str]) -> bytes:
    """As the models of T5 and SigLIP: unigram, NFKC, pad 0, end 1, unknown 2, no begin token."""
    ids = {"pad_id": 0, "eos_id": 1, "unk_id": 2, "bos_id": -1}
    return train_sentencepiece(texts, model_type="unigram", vocab_size=2000, **ids)


def gemma_like(texts: list[str]) -> bytes:
    """As Gemma's: BPE, bytes for unknown letters, no normalisation, digits split."""
    return train_sentencepiece(
        texts,
        model_type="bpe",
        vocab_size=2000,
        byte_fallback=True,
        split_digits=True,
        allow_whitespace_only_pieces=True,
        add_dummy_prefix=False,
        remove_extra_whitespaces=False,
        normalization_rule_name="identity",
        user_defined_symbols=["<start_of_turn>", "<end_of_turn>"],
        pad_id=0,
        eos_id=1,
        bos_id=2,
        unk_id=3,
    )


def bert_like(texts: list[str]) -> str:
    """WordPiece with BERT's normalizer and special tokens."""
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
    trainer = trainers.WordPieceTrainer(
        vocab_size=1500, limit_alphabet=400, special_tokens=special, show_progress=False
    )
    tokenizer.train_from_iterator(texts, trainer)
    ends = [("[CLS]", 2), ("[SEP]", 3)]
    tokenizer.post_processor = processors.TemplateProcessing("[CLS] $A [SEP]", None, ends)
    return tokenizer.to_str()


def clip_rows(texts: list[str]) -> np.ndarray:
    """open_clip's default tokenizer."""
    from open_clip.tokenizer import SimpleTokenizer

    rows: np.ndarray = _once(SimpleTokenizer)(texts, context_length=CONTEXT).numpy()
    return rows


def sentencepiece_rows(model: str, texts: list[str], pad: int) -> np.ndarray:
    """big_vision, pp/ops_text.py `tokenize`: eos="sticky"."""
    processor = sentencepiece.SentencePieceProcessor(model_file=str(DATA / model))
    ids = np.full((len(texts), CONTEXT), pad)
    for row, text in zip(ids, texts, strict=True):
        tokens = [*processor.encode(text), processor.eos_id()]
        if len(tokens) > CONTEXT:
            tokens = [*tokens[: CONTEXT - 1], tokens[-1]]
        row[: len(tokens)] = tokens
    return ids


def huggingface_rows(path: Path, texts: list[str], pad: str) -> np.ndarray:
    """transformers, cutting and padding by the template in the file."""
    from transformers import PreTrainedTokenizerFast

    fast = PreTrainedTokenizerFast(tokenizer_file=str(path), pad_token=pad)
    options = {"padding": "max_length", "truncation": True, "max_length": CONTEXT}
    return np.array(fast(texts, **options)["input_ids"])


@functools.cache
def _once(make: Callable[[], Any]) -> Any:
    """The result of `make`, which is called once."""
    return make()


def reference(rows: Callable[[list[str]], np.ndarray], texts: list[str]) -> dict[str, object]:
    """Digests of the ids of all strings, and the ids of every 200th if they are few."""
    digests, sample = [], {}
    for start in range(0, len(texts), CHUNK):
        ids = rows(texts[start : start + CHUNK]).astype("<i4")
        digests.append(hashlib.sha256(ids.tobytes()).hexdigest()[:16])
        last = int((ids[0] != ids[0, -1]).sum())
        if last < 60 and start % 500 == 0:
            sample[str(start)] = ids[0, : last + 1].tolist()
    return {"digests": digests, "first_ids": sample}


def train(texts: list[str]) -> None:
    """Writes the vocabularies that are trained here."""
    items = (BUILTIN / "items.jsonl").read_text().splitlines()
    corpus = [json.loads(line)["caption"] for line in items] + texts[::20]
    (DATA / "c4_like.model").write_bytes(c4_like(corpus))
    (DATA / "gemma_like.model").write_bytes(gemma_like(corpus))
    (DATA / "bert_like.json").write_text(bert_like(corpus))


MAKERS: dict[str, Callable[[list[str]], np.ndarray]] = {
    "clip": clip_rows,
    "c4_like": lambda texts: sentencepiece_rows("c4_like.model", texts, pad=1),
    "gemma_like": lambda texts: sentencepiece_rows("gemma_like.model", texts, pad=0),
    "bert_like": lambda texts: huggingface_rows(DATA / "bert_like.json", texts, "[PAD]"),
    "builtin": lambda texts: huggingface_rows(BUILTIN / "tokenizer.json", texts, "<pad>"),
}


def main() -> None:
    """`python make_tokenizers.py [train] [NAME ...]`: makes all files, or only some."""
    texts, wanted = strings(), sys.argv[1:] or ["train", *MAKERS]
    if "train" in wanted:
        train(texts)
    for name in (name for name in wanted if name != "train"):
        result = reference(MAKERS[name], texts)
        path = DATA / "tokenizers.json"
        content = json.loads(path.read_text()) if path.exists() else {}
        versions = {package: version(package) for package in PACKAGES}
        content |= {"strings": digest(texts), "versions": versions, name: result}
        path.write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main()
