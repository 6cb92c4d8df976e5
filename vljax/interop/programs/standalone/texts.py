"""From strings to token ids: clean, split, add special tokens, pad."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from vljax.data.tokenizers.cleaning import clean

Encode = Callable[[str], list[int]]
Frame = tuple[int, int | None, int | None]
"""The ids of padding, of the first token and of the last token."""


class Texts:
    """The tokenizer of a folder: `config.json` and a vocabulary."""

    def __init__(self, folder: Path) -> None:
        self._config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        load = {"huggingface": _huggingface, "sentencepiece": _sentencepiece, "clip": _clip}
        name = Path(self._config.get("path") or "").name
        self._encode, self._frame = load[self._config["type"]](self._config, folder / name)

    def __call__(self, texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """Ids int32[texts, length], and a mask bool[texts, length] that is False for padding."""
        length, (pad, *_) = self._config["context_length"], self._frame
        ids = np.full((len(texts), length), pad, np.int32)
        mask = np.zeros(ids.shape, bool)
        for row, text in enumerate(texts):
            tokens = self._tokens(text)
            left = self._config["padding_side"] == "left"
            start = length - len(tokens) if left else 0
            ids[row, start : start + len(tokens)] = tokens
            mask[row, start : start + len(tokens)] = True
        return ids, mask

    def _tokens(self, text: str) -> list[int]:
        _, bos, eos = self._frame
        cleaned = clean(text, self._config["cleaning"])
        # Lone surrogates, which UTF-8 cannot encode, become replacement characters.
        cleaned = cleaned.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
        tokens = self._encode(cleaned)
        start, end = ([] if token is None else [token] for token in (bos, eos))
        room = self._config["context_length"] - len(start)
        if self._config["truncation"] == "keep_eos":
            return [*start, *tokens[: room - len(end)], *end]
        return [*start, *[*tokens, *end][:room]]


def _huggingface(config: dict[str, Any], file: Path) -> tuple[Encode, Frame]:
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(file))
    tokenizer.no_padding()
    tokenizer.no_truncation()

    def encode(text: str) -> list[int]:
        ids: list[int] = tokenizer.encode(text, add_special_tokens=False).ids
        return ids

    names = (config[f"{role}_token"] for role in ("bos", "eos"))
    bos, eos = (None if name is None else tokenizer.token_to_id(name) for name in names)
    pad = tokenizer.token_to_id(config["pad_token"])
    if pad is None:
        raise ValueError(f"{file} has no token {config['pad_token']!r}")
    return encode, (pad, bos, eos)


def _sentencepiece(config: dict[str, Any], file: Path) -> tuple[Encode, Frame]:
    from sentencepiece import SentencePieceProcessor

    pieces = SentencePieceProcessor(model_file=str(file))
    pad = pieces.pad_id() if config["pad_id"] is None else config["pad_id"]
    bos = pieces.bos_id() if config["add_bos"] else None
    eos = pieces.eos_id() if config["add_eos"] else None
    return pieces.encode, (pad, bos, eos)


def _clip(config: dict[str, Any], file: Path) -> tuple[Encode, Frame]:
    from instant_clip_tokenizer import Tokenizer

    from vljax.data.tokenizers.clip_bpe import ClipBpe

    tokenizer = Tokenizer()
    bpe = ClipBpe.from_decode(tokenizer.decode)
    return bpe.encode, (0, tokenizer.start_of_text(), tokenizer.end_of_text())
