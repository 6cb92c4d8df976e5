"""Any `tokenizer.json` of the Hugging Face `tokenizers` library."""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass
from typing import Any

from vljax.config import UserError, setting, suggest
from vljax.data.tokenizers.base import LoadedTokenizer, Special, Tokenizer, vocabulary_error
from vljax.data.tokenizers.cleaning import Cleaning


@dataclass(frozen=True)
class HuggingFace(Tokenizer, name="huggingface"):
    """A `tokenizer.json` of the Hugging Face `tokenizers` library.

    The fields here replace the file's own truncation, padding and special-token template. The file
    decides what unknown characters become. As in the library, the name of a special token inside a
    text becomes that token.

    >>> from vljax.recipes import BUILTIN_VOCABULARY
    >>> tokenizer = HuggingFace(str(BUILTIN_VOCABULARY), context_length=5).load()
    >>> ids, mask = tokenizer(["a cat"])
    >>> tokenizer.special.pad, tokenizer.special.eos, mask.tolist()
    (0, 1, [[True, True, True, False, False]])
    """

    path: str | None = setting(None, path=True)
    """Path of the `tokenizer.json`, local or remote."""
    _: KW_ONLY
    context_length: int = 64
    """Ids per text."""
    pad_token: str = "<pad>"
    """Name of the padding token in the vocabulary."""
    eos_token: str | None = "</s>"
    """Name of the end token of each text; None for none."""
    bos_token: str | None = None
    """Name of the begin token of each text; None for none."""
    cleaning: Cleaning = "whitespace"
    """Text cleaning before tokenization."""

    @property
    def adds_bos(self) -> bool:
        return self.bos_token is not None

    @property
    def adds_eos(self) -> bool:
        return self.eos_token is not None

    def load_vocabulary(self, vocabulary: bytes) -> LoadedTokenizer:
        return LoadedHuggingFace(self, vocabulary)


class LoadedHuggingFace(LoadedTokenizer):
    """A Hugging Face tokenizer, ready to use."""

    vocabulary_file = "tokenizer.json"

    def __init__(self, config: HuggingFace, vocabulary: bytes):
        from tokenizers import Tokenizer as RustTokenizer

        try:
            tokenizer = RustTokenizer.from_buffer(vocabulary)
        except Exception as error:  # the Rust library raises nothing narrower
            raise vocabulary_error("tokenizer.json", config.path, vocabulary, error) from error
        tokenizer.no_padding()
        tokenizer.no_truncation()
        self._tokenizer = tokenizer
        special = Special(
            _id(tokenizer, config, "pad_token"),
            _id(tokenizer, config, "eos_token") if config.adds_eos else None,
            _id(tokenizer, config, "bos_token") if config.adds_bos else None,
        )
        # Ids may have gaps, so the number of tokens would be too small.
        largest = max(tokenizer.get_vocab(with_added_tokens=True).values())
        super().__init__(config, vocabulary, special, largest + 1)

    def _encode(self, text: str) -> list[int]:
        tokens: list[int] = self._tokenizer.encode(text, add_special_tokens=False).ids
        return tokens


def _id(tokenizer: Any, config: HuggingFace, field: str) -> int:
    token = getattr(config, field)
    number: int | None = tokenizer.token_to_id(token)
    if number is None:
        added = [token.content for token in tokenizer.get_added_tokens_decoder().values()]
        known = suggest(token, added) or "; name a token of its vocabulary"
        raise UserError(
            f"data.tokenizers.text.{field}: {config.path} has no token {token!r}{known}"
        )
    return number
