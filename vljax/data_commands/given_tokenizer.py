"""The tokenizer that a command line names."""

from __future__ import annotations

import os
from typing import Any

from vljax.config import UserError, member, validate
from vljax.data.tokenizers import LoadedTokenizer, Tokenizer, load_tokenizer
from vljax.overrides import override

_BY_ENDING = {".json": "huggingface", ".model": "sentencepiece"}
_FIELD = "--tokenizer."


def take_fields(argv: list[str]) -> tuple[list[str], list[str]]:
    """`--tokenizer.FIELD VALUE ...` as `--FIELD VALUE ...`, and the other arguments."""
    fields, rest = list[str](), list[str]()
    ours = False
    for word in argv:
        if word.startswith("--"):
            ours = word.startswith(_FIELD)
        (fields if ours else rest).append(word)
    return [f"--{w[len(_FIELD) :]}" if w.startswith(_FIELD) else w for w in fields], rest


def given_tokenizer(word: str, fields: list[str], prog: str) -> LoadedTokenizer | None:
    """The loaded tokenizer that a word names; None for "none".

    Args:
      word: TYPE, TYPE:PATH, a vocabulary, or the folder of a tokenizer in a checkpoint.
      fields: `--FIELD VALUE ...` of it.
      prog: the command that messages show.

    Raises:
      UserError: if there is no such tokenizer, or a field does not fit.
    """
    if word == "none":
        if fields:
            raise UserError(f"--tokenizer.{fields[0][2:]}: --tokenizer is none")
        return None
    if word not in Tokenizer.members and os.path.isdir(word):
        if fields:
            raise UserError(f"--tokenizer.{fields[0][2:]}: those of {word} are in its config.json")
        return load_tokenizer(word)
    name, _, path = word.partition(":")
    ending = os.path.splitext(word)[1]
    if name not in Tokenizer.members and ending in _BY_ENDING:
        name, path = _BY_ENDING[ending], word
    kind: Any = member(Tokenizer, name, "--tokenizer")
    # Clip has its vocabulary within it.
    tokenizer = kind(path=path) if path else kind()
    return loaded_tokenizer(tokenizer, fields, f"{prog} --tokenizer {word}")


def loaded_tokenizer(tokenizer: Tokenizer, fields: list[str], prog: str) -> LoadedTokenizer:
    """A tokenizer with `--FIELD VALUE ...` set, loaded. Raises UserError if one does not fit."""
    return validate(override(tokenizer, fields, prog)).load()
