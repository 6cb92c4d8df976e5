"""The base classes: `Tokenizer`, a component of recipes, and `LoadedTokenizer`, which makes ids."""

from __future__ import annotations

import abc
import itertools
import json
from collections.abc import Iterator, Sequence
from dataclasses import KW_ONLY, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from jaxtyping import Bool, Int32, Integer

from vljax.config import Component, UserError, decode, encode
from vljax.data.tokenizers.cleaning import Cleaning, clean
from vljax.files import LFS_REMEDY, encodable, is_lfs_pointer, join, parse_json, read_user_file

CONFIG_FILE = "config.json"
_LONGEST_CONTEXT = 2**20


@dataclass(frozen=True)
class Tokenizer(Component, abc.ABC):
    """Text to token ids. Subclasses are frozen dataclasses; `load` reads the vocabulary.

    >>> from vljax.data.tokenizers import Clip
    >>> ids, mask = Clip(context_length=6).load()(["a cat", "a very long text about a cat"])
    >>> ids.tolist()
    [[49406, 320, 2368, 49407, 0, 0], [49406, 320, 1070, 1538, 4160, 49407]]
    >>> mask.sum(axis=1).tolist()
    [4, 6]
    """

    _: KW_ONLY
    context_length: int
    """Ids per text; longer texts are truncated, shorter ones padded."""
    cleaning: Cleaning
    """Text cleaning before tokenization, see `vljax.data.tokenizers.cleaning.clean`."""
    truncation: Literal["keep_eos", "cut"] = "keep_eos"
    """How a text that is too long is truncated: "keep_eos" keeps the end token, "cut" removes it
    too, as for generative models (`eos="yes"` in big_vision)."""
    padding_side: Literal["right", "left"] = "right"
    """The side on which texts are padded."""

    @property
    @abc.abstractmethod
    def adds_bos(self) -> bool:
        """Whether each text begins with a begin token."""

    @property
    @abc.abstractmethod
    def adds_eos(self) -> bool:
        """Whether each text that is not truncated ends with an end token."""

    @property
    def always_ends(self) -> bool:
        """Whether every text, truncated or not, ends with an end token."""
        return self.adds_eos and self.truncation == "keep_eos"

    def load(self) -> LoadedTokenizer:
        """Read the vocabulary. Raises UserError if it is unset, missing or broken."""
        return self.load_vocabulary(self._read_vocabulary())

    @abc.abstractmethod
    def load_vocabulary(self, vocabulary: bytes) -> LoadedTokenizer:
        """Load from the content of a vocabulary file. Raises UserError if it is broken."""

    def problems(self) -> Iterator[tuple[str, str]]:
        least = 1 + self.adds_bos + self.adds_eos
        if self.context_length < least:
            special = [name for name in ("bos", "eos") if getattr(self, f"adds_{name}")]
            why = f", for {' and '.join(special)} beside the text" if special else ""
            yield "context_length", f"must be at least {least}{why}, got {self.context_length}"
        if self.context_length > _LONGEST_CONTEXT:
            yield (
                "context_length",
                f"must be at most {_LONGEST_CONTEXT:,}, got {self.context_length:,}",
            )

    def _read_vocabulary(self) -> bytes:
        path: str | None = getattr(self, "path", None)
        if path is None:
            raise UserError(
                f"data.tokenizers.text.path: unset; set it to a {self.type_name} vocabulary"
            )
        return read_user_file(path)


@dataclass(frozen=True)
class SpecialTokens:
    """Ids of special tokens by role; None where the vocabulary has none.

    A token may have two roles: in BERT's vocabulary, [CLS] begins a text and [SEP] ends it.
    """

    pad: int
    """Fills up a text. It may be an ordinary token, as in CLIP."""
    bos: int | None = None
    """Begins a text, if `Tokenizer.adds_bos`."""
    eos: int | None = None
    """Ends a text, if `Tokenizer.adds_eos`."""
    mask: int | None = None
    """Stands for a hidden token."""
    cls: int | None = None
    """Its output stands for the whole text."""
    sep: int | None = None
    """Stands between texts."""


NAMES_OF_SPECIAL = {
    "bos": ("<s>", "<bos>", "[BOS]", "<|startoftext|>", "<|begin_of_text|>"),
    "eos": ("</s>", "<eos>", "[EOS]", "<|endoftext|>", "<|end_of_text|>"),
    "mask": ("<mask>", "[MASK]", "<|mask|>"),
    "cls": ("[CLS]", "<cls>"),
    "sep": ("[SEP]", "<sep>"),
}
"""Role -> usual names, for vocabularies that do not say which token has the role."""


class LoadedTokenizer(abc.ABC):
    """Turns texts into ids of a fixed length. Safe to use from threads and to pickle.

    Attributes:
      config: the component that this was loaded from.
      special: ids of special tokens by role.
      vocab_size: the largest id plus 1.
    """

    vocabulary_file: str | None = None
    """Name of the vocabulary in `files()`; None if the vocabulary is built in."""

    def __init__(
        self, config: Tokenizer, vocabulary: bytes, special: SpecialTokens, vocab_size: int
    ):
        self.config = config
        self.special = special
        self.vocab_size = vocab_size
        self._vocabulary = vocabulary

    @property
    def context_length(self) -> int:
        return self.config.context_length

    def clean(self, text: str) -> str:
        """The cleaned text, ready to be tokenized."""
        return encodable(clean(text, self.config.cleaning))

    def __call__(
        self, texts: Sequence[str]
    ) -> tuple[Int32[np.ndarray, "texts length"], Bool[np.ndarray, "texts length"]]:
        """Tokenize texts: ids of length `context_length`, and a mask that is False for padding.

        Begin and end tokens are part of the text.
        """
        length = self.context_length
        ids = np.full((len(texts), length), self.special.pad, np.int32)
        mask = np.zeros(ids.shape, bool)
        for row, text in enumerate(texts):
            tokens = self._add_special(self._encode(self.clean(text)))
            start = length - len(tokens) if self.config.padding_side == "left" else 0
            ids[row, start : start + len(tokens)] = tokens
            mask[row, start : start + len(tokens)] = True
        return ids, mask

    def token_texts(self) -> list[str]:
        """The text of every id of the vocabulary."""
        return [self._decode([token]) for token in range(self.vocab_size)]

    def pieces(self) -> list[str]:
        """Every id of the vocabulary as its file writes it, with marks such as that of a space."""
        return self.token_texts()

    def count(self, text: str) -> int:
        """The number of tokens of a text before truncation, with begin and end tokens."""
        return len(self._encode(self.clean(text))) + self.config.adds_bos + self.config.adds_eos

    def _add_special(self, tokens: list[int]) -> list[int]:
        """Add begin and end tokens, and truncate to `context_length` in all."""
        start = _used(self.config.adds_bos, self.special.bos)
        end = _used(self.config.adds_eos, self.special.eos)
        room = self.context_length - len(start)
        if self.config.truncation == "keep_eos":
            return [*start, *tokens[: room - len(end)], *end]
        return [*start, *[*tokens, *end][:room]]

    def decode(self, ids: Integer[np.ndarray, "texts length"]) -> list[str]:
        """The texts of ids, without special tokens.

        A text ends at the first end token, or else before padding at its end. White space may
        differ from that of the original text.

        >>> from vljax.data.tokenizers import Clip
        >>> tokenizer = Clip(context_length=8).load()
        >>> tokenizer.decode(tokenizer(["A cat!", "two dogs"])[0])
        ['a cat !', 'two dogs']
        """
        return [self._decode(self._without_special(row)).strip() for row in ids.tolist()]

    def _without_special(self, row: list[int]) -> list[int]:
        special = self.special
        if self.config.adds_bos and special.bos in row:
            row = row[row.index(special.bos) + 1 :]
        elif self.config.padding_side == "left":
            row = [*itertools.dropwhile(lambda token: token == special.pad, row)]
        if special.eos in row:
            row = row[: row.index(special.eos)]
        else:
            while row and row[-1] == special.pad:
                row = row[:-1]
        left_out = {special.bos, special.mask, special.cls, special.sep}
        return [token for token in row if token not in left_out]

    def files(self) -> dict[str, bytes]:
        """File name -> content of the files that `load_tokenizer` needs on another machine."""
        data = encode(self.config)
        if self.vocabulary_file is None:
            return {CONFIG_FILE: _to_bytes(data)}
        data["path"] = self.vocabulary_file
        return {CONFIG_FILE: _to_bytes(data), self.vocabulary_file: self._vocabulary}

    @abc.abstractmethod
    def _encode(self, text: str) -> list[int]:
        """All ids of a cleaned text, without begin and end tokens."""

    @abc.abstractmethod
    def _decode(self, ids: list[int]) -> str:
        """The text of ids, among which there is no special token."""

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild, (self.config, self._vocabulary)


def _used(used: bool, token: int | None) -> list[int]:
    return [token] if used and token is not None else []


def _rebuild(config: Tokenizer, vocabulary: bytes) -> LoadedTokenizer:
    return config.load_vocabulary(vocabulary)


def load_named(name: str, tokenizer: Tokenizer) -> LoadedTokenizer:
    """Load a tokenizer of a recipe. Raises UserError with the name in the path of its field."""
    try:
        return tokenizer.load()
    except UserError as error:
        own = str(error).replace("data.tokenizers.text", f"data.tokenizers.{name}")
        raise UserError(own) from error


def load_tokenizer(directory: str) -> LoadedTokenizer:
    """Load the tokenizer whose `LoadedTokenizer.files` are in a local or remote folder.

    Raises:
      UserError: if a file is missing or broken.
    """
    file = join(str(directory), CONFIG_FILE)
    content = read_user_file(file)
    try:
        data = parse_json(content)
    except ValueError as error:
        raise UserError(f"{file}: not a saved tokenizer ({error})") from error
    if isinstance(data, dict) and isinstance(data.get("path"), str):
        # Only a name was stored. Ignoring folders keeps a crafted file from reading elsewhere.
        data["path"] = join(str(directory), Path(data["path"]).name)
    config: Tokenizer = decode(Tokenizer, data, "tokenizer")
    for name, message in config.problems():
        raise UserError(f"{file}: {name}: {message}")
    return config.load()


def _to_bytes(data: Any) -> bytes:
    return (json.dumps(data, indent=2, ensure_ascii=False) + "\n").encode()


def vocabulary_error(wanted: str, path: str | None, content: bytes, error: object) -> UserError:
    """The error for a broken or wrong vocabulary file; it says what the file is and what to do.

    Args:
      wanted: the expected kind of file, such as "tokenizer.json".
      path: path of the file.
      content: content of the file.
      error: the library's error.
    """
    if is_lfs_pointer(content):
        return UserError(f"{path}: {LFS_REMEDY}")
    return UserError(f"{path}: not a {wanted}{_diagnosis(content) or f' ({error})'}")


def _diagnosis(content: bytes) -> str | None:
    if not content:
        return ": it is empty"
    if content.startswith(b"\x1f\x8b"):
        return ": it is compressed; unpack it with gunzip"
    if content.lstrip()[:1] == b"{":
        return _json_diagnosis(content)
    if content.startswith(b"\x0a") and b"<unk>" in content[:4096]:
        return ": it looks like a SentencePiece model; use --data.tokenizers.text sentencepiece"
    return None


def _json_diagnosis(content: bytes) -> str:
    try:
        data = parse_json(content)
    except ValueError as error:
        return f": JSON that is cut or damaged ({error})"
    if "model" in data:
        return ": it looks like a tokenizer.json; use --data.tokenizers.text huggingface"
    if "tokenizer_class" in data or "added_tokens_decoder" in data:
        return ": it is a tokenizer_config.json; give the tokenizer.json beside it"
    return ": it is JSON without a model, perhaps a vocab.json; give the tokenizer.json beside it"
