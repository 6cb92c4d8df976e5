"""Any `tokenizer.json` of the Hugging Face `tokenizers` library."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from vljax.config import UserError, setting, suggest
from vljax.data.cleaning import Cleaning
from vljax.data.tokenizer_base import LoadedTokenizer, Tokenizer, frame


@dataclass(frozen=True)
class HuggingFace(Tokenizer, name="huggingface"):
    """A `tokenizer.json`.

    The file's own truncation, padding and special-token template are not used: the fields here say
    all of it, and a text that is cut keeps its end token.

    Attributes:
      path: the `tokenizer.json`.
      context_length: ids per text.
      pad_token: name of the padding token in the vocabulary.
      eos_token: name of the token after each text.
      bos_token: name of the token before each text; None for none.
      cleaning: what is done to a text first.
    """

    path: str | None = setting(None, path=True)
    context_length: int = 64
    pad_token: str = "<pad>"
    eos_token: str = "</s>"
    bos_token: str | None = None
    cleaning: Cleaning = "whitespace"

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
            raise UserError(f"{config.path}: not a tokenizer.json ({error})") from error
        tokenizer.no_padding()
        tokenizer.no_truncation()
        self._tokenizer = tokenizer
        super().__init__(config, vocabulary, pad=_id(tokenizer, config, "pad_token"))
        self._eos = _id(tokenizer, config, "eos_token")
        self._bos = _id(tokenizer, config, "bos_token") if config.bos_token is not None else None
        self.vocab_size = tokenizer.get_vocab_size(with_added_tokens=True)

    def _tokens(self, text: str) -> list[int]:
        tokens = self._tokenizer.encode(text, add_special_tokens=False).ids
        return frame(tokens, self.context_length, self._bos, self._eos)


def _id(tokenizer: Any, config: HuggingFace, field: str) -> int:
    token = getattr(config, field)
    number: int | None = tokenizer.token_to_id(token)
    if number is None:
        added = [token.content for token in tokenizer.get_added_tokens_decoder().values()]
        raise UserError(
            f"data.tokenizer.{field}: {config.path} has no token {token!r}{suggest(token, added)}"
        )
    return number
