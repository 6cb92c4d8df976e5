"""Any `tokenizer.json` of the Hugging Face `tokenizers` library."""

from __future__ import annotations

import json
from dataclasses import KW_ONLY, dataclass
from typing import Any

from vljax.config import UserError, setting, suggest
from vljax.data.tokenizers.base import (
    NAMES_OF_SPECIAL,
    LoadedTokenizer,
    SpecialTokens,
    Tokenizer,
    vocabulary_error,
)
from vljax.data.tokenizers.cleaning import Cleaning
from vljax.files import encodable


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
        _check_unknown(tokenizer, config)
        self._tokenizer = tokenizer
        if tokenizer.decoder is None:
            tokenizer.decoder = _decoder(json.loads(vocabulary))
        special = SpecialTokens(
            _id(tokenizer, config, "pad_token"),
            **{**_special(tokenizer), **_stated(tokenizer, config)},
        )
        # Ids may have gaps, so the number of tokens would be too small.
        largest = max(tokenizer.get_vocab(with_added_tokens=True).values())
        super().__init__(config, vocabulary, special, largest + 1)

    def _decode(self, ids: list[int]) -> str:
        text: str = self._tokenizer.decode(ids, skip_special_tokens=False)
        return text

    def pieces(self) -> list[str]:
        return [self._tokenizer.id_to_token(i) or "" for i in range(self.vocab_size)]

    def _encode(self, text: str) -> list[int]:
        tokens: list[int] = self._tokenizer.encode(text, add_special_tokens=False).ids
        return tokens


# Words of rare characters; one of ASCII, since cleaning may drop the others.
_RARE = ("\U00013000\U0001f9ff", "\u9f98", "qzxvkjw")


def _check_unknown(tokenizer: Any, config: HuggingFace) -> None:
    """Raises UserError if the file has no token for unknown text, which would end a run midway."""
    for text in _RARE:
        try:
            tokenizer.encode(text, add_special_tokens=False)
        except Exception as error:  # the Rust library raises nothing narrower
            raise UserError(
                f"data.tokenizers.text.path: {config.path} cannot encode text with unknown words or"
                f" characters ({error}); add its unknown token to the vocabulary of the model"
            ) from error


def _stated(tokenizer: Any, config: HuggingFace) -> dict[str, int]:
    """Role -> id of the begin and end tokens that the recipe names."""
    named = {"bos": config.adds_bos, "eos": config.adds_eos}
    return {role: _id(tokenizer, config, f"{role}_token") for role, used in named.items() if used}


def _special(tokenizer: Any) -> dict[str, int]:
    """Role -> id of the tokens with usual names."""
    known = tokenizer.get_added_tokens_decoder()
    ids = {token.content: number for number, token in known.items() if token.special}
    return {
        role: next(ids[name] for name in names if name in ids)
        for role, names in NAMES_OF_SPECIAL.items()
        if any(name in ids for name in names)
    }


def _decoder(content: dict[str, Any]) -> Any:
    """A decoder for a file that has none."""
    from tokenizers import decoders

    if "ByteLevel" in json.dumps(content.get("pre_tokenizer")):
        return decoders.ByteLevel()
    if content["model"].get("type") == "WordPiece":
        return decoders.WordPiece()
    return None


def _id(tokenizer: Any, config: HuggingFace, field: str) -> int:
    token = getattr(config, field)
    # The library takes no half of an emoji, which no vocabulary has.
    number: int | None = tokenizer.token_to_id(token) if token == encodable(token) else None
    if number is None:
        added = [token.content for token in tokenizer.get_added_tokens_decoder().values()]
        known = suggest(token, added) or "; name a token of its vocabulary"
        raise UserError(
            f"data.tokenizers.text.{field}: {config.path} has no token {token!r}{known}"
        )
    return number
