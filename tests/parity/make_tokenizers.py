"""Makes tests/parity/data/tokenizers.json and the small vocabularies beside it.

    pip install 'vljax[parity]'
    python tests/parity/make_tokenizers.py

The ids are those of open_clip's SimpleTokenizer, of `sentencepiece`, and of transformers reading a
`tokenizer.json`, on all of `strings.strings()`. Ids in bulk are kept as digests of 250 strings
each, with the ids of some short strings beside them to look at when a digest differs.
"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import open_clip.tokenizer
import regex
import sentencepiece
import transformers
from strings import digest, strings
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers

DATA = Path(__file__).parent / "data"
BUILTIN = Path(__file__).parents[2] / "vljax/data/builtin/tokenizer.json"
CONTEXT = 4096
CHUNK = 250


def train_sentencepiece(texts: list[str], **options: object) -> bytes:
    """A SentencePiece model as bytes."""
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=(text for text in texts if "\x00" not in text),
        model_writer=model,
        num_threads=1,
        minloglevel=2,
        hard_vocab_limit=False,
        **options,
    )
    return model.getvalue()


def c4_like(texts: list[str]) -> bytes:
    """As the models of T5 and SigLIP: unigram, NFKC, pad 0, end 1, unknown 2, no begin token."""
    ids = {"pad_id": 0, "eos_id": 1, "unk_id": 2, "bos_id": -1}
    return train_sentencepiece(texts, model_type="unigram", vocab_size=1500, **ids)


def gemma_like(texts: list[str]) -> bytes:
    """As Gemma's: BPE with bytes for what is unknown, nothing normalised, digits one by one."""
    return train_sentencepiece(
        texts,
        model_type="bpe",
        vocab_size=2000,
        character_coverage=0.99,
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
    return open_clip.tokenizer.SimpleTokenizer()(texts, context_length=CONTEXT).numpy()


def sentencepiece_rows(model: bytes, pad: int) -> Callable[[list[str]], np.ndarray]:
    """big_vision, pp/ops_text.py `tokenize`: eos="sticky"."""
    processor = sentencepiece.SentencePieceProcessor(model_proto=model)

    def rows(texts: list[str]) -> np.ndarray:
        ids = np.full((len(texts), CONTEXT), pad)
        for row, text in zip(ids, texts, strict=True):
            tokens = [*processor.encode(text), processor.eos_id()]
            if len(tokens) > CONTEXT:
                tokens = [*tokens[: CONTEXT - 1], tokens[-1]]
            row[: len(tokens)] = tokens
        return ids

    return rows


def huggingface_rows(path: Path, pad: str) -> Callable[[list[str]], np.ndarray]:
    fast = transformers.PreTrainedTokenizerFast(tokenizer_file=str(path), pad_token=pad)

    def rows(texts: list[str]) -> np.ndarray:
        options = {"padding": "max_length", "truncation": True, "max_length": CONTEXT}
        return np.array(fast(texts, **options)["input_ids"])

    return rows


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


def main() -> None:
    texts = strings()
    unigram, bpe = c4_like(texts), gemma_like(texts)
    (DATA / "c4_like.model").write_bytes(unigram)
    (DATA / "gemma_like.model").write_bytes(bpe)
    (DATA / "bert_like.json").write_text(bert_like(texts))
    makers = {
        "clip": clip_rows,
        "c4_like": sentencepiece_rows(unigram, pad=1),
        "gemma_like": sentencepiece_rows(bpe, pad=0),
        "bert_like": huggingface_rows(DATA / "bert_like.json", "[PAD]"),
        "builtin": huggingface_rows(BUILTIN, "<pad>"),
    }
    content = {
        "versions": {
            "open_clip": open_clip.__version__,
            "regex": regex.__version__,
            "sentencepiece": sentencepiece.__version__,
            "transformers": transformers.__version__,
        },
        "strings": digest(texts),
        **{name: reference(rows, texts) for name, rows in makers.items()},
    }
    (DATA / "tokenizers.json").write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main()
