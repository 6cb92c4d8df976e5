"""Inputs for both sides: image files, texts, and vocabularies trained on the spot."""

from __future__ import annotations

import io
import json
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image

TEXTS = [
    "a photo of a cat",
    "  Two DOGS,  running — on\tgrass!  ",
    "snake_case (brackets) 50% naïve CRÈME brûlée",
    "it's one long text that has to be cut off somewhere since it has too many words",
    "",
]
# Higher and wider than the models; odd differences, so that crops show how they round.
_SIZES = [(45, 61, "PNG"), (80, 39, "PNG"), (33, 33, "JPEG"), (20, 27, "PNG"), (61, 44, "JPEG")]


def images() -> list[bytes]:
    """Image files: smooth noise in several sizes."""
    rng = np.random.default_rng(0)
    files = []
    for height, width, kind in _SIZES:
        coarse = rng.integers(0, 256, (height // 6, width // 6, 3), np.uint8)
        image = Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)
        buffer = io.BytesIO()
        image.save(buffer, kind)
        files.append(buffer.getvalue())
    return files


def byte_pairs() -> tuple[dict[str, int], list[tuple[str, str]]]:
    """A vocabulary of CLIP's kind and its merges; the end token is the last."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE(end_of_word_suffix="</w>"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        vocab_size=640,
        end_of_word_suffix="</w>",
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(TEXTS, trainer)
    model = json.loads(tokenizer.to_str())["model"]
    names = sorted(model["vocab"], key=model["vocab"].get)
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    names += [f"{letter}</w>" for letter in alphabet if f"{letter}</w>" not in model["vocab"]]
    names += ["<|startoftext|>", "<|endoftext|>"]
    merges = [tuple(pair) for pair in model["merges"]]
    return {name: i for i, name in enumerate(names)}, merges


def sentence_pieces() -> bytes:
    """A SentencePiece model with SigLIP's special ids: padding and end are both 1."""
    from sentencepiece import SentencePieceTrainer

    with tempfile.TemporaryDirectory() as folder:
        prefix = str(Path(folder) / "spiece")
        SentencePieceTrainer.train(
            sentence_iterator=iter(TEXTS[:4] * 3),
            model_prefix=prefix,
            vocab_size=64,
            hard_vocab_limit=False,
            bos_id=-1,
            pad_id=0,
            eos_id=1,
            unk_id=2,
            normalization_rule_name="identity",  # leaves out a table of 200 kB
            minloglevel=2,
        )
        return Path(f"{prefix}.model").read_bytes()
