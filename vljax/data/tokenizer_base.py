"""What a tokenizer is: the component in the recipe, and the loaded object that makes ids."""

from __future__ import annotations

import abc
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Int32

from vljax.config import Component, UserError, decode, encode
from vljax.data.cleaning import Cleaning, clean
from vljax.data.files import as_path, read_bytes

CONFIG_FILE = "config.json"


class Tokenizer(Component, abc.ABC):
    """Text to ids. Members are frozen dataclasses; `load` reads the vocabulary.

    Attributes:
      context_length: ids per text; longer texts are cut, shorter ones padded.
      cleaning: what is done to a text first, see `vljax.data.cleaning`.
    """

    context_length: int
    cleaning: Cleaning

    def load(self) -> LoadedTokenizer:
        """Reads the vocabulary. Raises UserError if it is unset, missing or broken."""
        return self.load_vocabulary(self._read_vocabulary())

    @abc.abstractmethod
    def load_vocabulary(self, vocabulary: bytes) -> LoadedTokenizer:
        """The tokenizer with the content of its vocabulary file. Raises UserError if broken."""

    def problems(self) -> Iterator[tuple[str, str]]:
        if self.context_length < 2:
            yield "context_length", f"must be at least 2, got {self.context_length}"

    def _read_vocabulary(self) -> bytes:
        path: str | None = getattr(self, "path", None)
        if path is None:
            raise UserError(f"data.tokenizer.path: unset; set it to a {self.type_name} vocabulary")
        return read_bytes(path)


class LoadedTokenizer(abc.ABC):
    """Turns texts into ids of a fixed length. Safe to use from threads and to pickle.

    Attributes:
      config: the component this was loaded from.
      vocab_size: number of ids.
      vocabulary_file: name of the vocabulary in `files()`; None if the vocabulary is built in.
    """

    vocabulary_file: str | None = None
    vocab_size: int

    def __init__(self, config: Tokenizer, vocabulary: bytes, pad: int):
        self.config = config
        self._vocabulary = vocabulary
        self._pad = pad

    @property
    def context_length(self) -> int:
        return self.config.context_length

    def clean(self, text: str) -> str:
        """The text after cleaning, from which the ids are made."""
        return clean(text, self.config.cleaning)

    def __call__(
        self, texts: Sequence[str]
    ) -> tuple[Int32[np.ndarray, "texts length"], Bool[np.ndarray, "texts length"]]:
        """Ids of `context_length`, and where they are tokens of the text (and not padding).

        Tokens that begin and end a text belong to it.
        """
        ids = np.full((len(texts), self.context_length), self._pad, np.int32)
        mask = np.zeros(ids.shape, bool)
        for row, text in enumerate(texts):
            tokens = self._tokens(self.clean(text))
            ids[row, : len(tokens)] = tokens
            mask[row, : len(tokens)] = True
        return ids, mask

    def files(self) -> dict[str, bytes]:
        """File name -> content: what `load_tokenizer` needs on another machine."""
        data = encode(self.config)
        if self.vocabulary_file is None:
            return {CONFIG_FILE: _to_bytes(data)}
        data["path"] = self.vocabulary_file
        return {CONFIG_FILE: _to_bytes(data), self.vocabulary_file: self._vocabulary}

    @abc.abstractmethod
    def _tokens(self, text: str) -> list[int]:
        """Ids of a cleaned text, at most `context_length`, with special tokens, not padded."""

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild, (self.config, self._vocabulary)


def _rebuild(config: Tokenizer, vocabulary: bytes) -> LoadedTokenizer:
    return config.load_vocabulary(vocabulary)


def frame(tokens: list[int], length: int, bos: int | None, eos: int) -> list[int]:
    """Tokens between `bos` (if any) and `eos`, cut so that both stay within `length`."""
    start = [] if bos is None else [bos]
    return [*start, *tokens[: length - len(start) - 1], eos]


def load_tokenizer(directory: str) -> LoadedTokenizer:
    """The tokenizer that `LoadedTokenizer.files` describes, from a local or remote folder.

    Raises:
      UserError: if a file is missing or broken.
    """
    folder = as_path(str(directory))
    content = read_bytes(str(folder / CONFIG_FILE))
    try:
        data = json.loads(content)
    except ValueError as error:
        raise UserError(f"{folder / CONFIG_FILE}: not a saved tokenizer ({error})") from error
    if isinstance(data, dict) and isinstance(data.get("path"), str):
        # Only a name is stored: a path that points elsewhere was not written by us.
        data["path"] = str(folder / Path(data["path"]).name)
    config: Tokenizer = decode(Tokenizer, data, "tokenizer")
    return config.load()


def _to_bytes(data: Any) -> bytes:
    return (json.dumps(data, indent=2, ensure_ascii=False) + "\n").encode()
