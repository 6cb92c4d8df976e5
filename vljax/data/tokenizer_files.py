"""Telling vocabulary files apart, for messages."""

from __future__ import annotations

import json

from vljax.config import UserError


def not_a(wanted: str, path: str | None, content: bytes, error: object) -> UserError:
    """The error for a file that is no `wanted`: it says what the file is, and what to do.

    Args:
      wanted: what the file was read as, such as "tokenizer.json".
      path: the file.
      content: what is in it.
      error: what the library said.
    """
    return UserError(f"{path}: not a {wanted}{_what_it_is(content) or f' ({error})'}")


def _what_it_is(content: bytes) -> str | None:
    if not content:
        return ": it is empty"
    if content.startswith(b"version https://git-lfs"):
        return ": it is a Git LFS pointer; fetch the file itself with `git lfs pull`"
    if content.startswith(b"\x1f\x8b"):
        return ": it is compressed; unpack it with gunzip"
    if content.lstrip()[:1] == b"{":
        return _which_json(content)
    if content.startswith(b"\x0a") and b"<unk>" in content[:4096]:
        return ": it looks like a SentencePiece model; use --data.tokenizer sentencepiece"
    return None


def _which_json(content: bytes) -> str | None:
    try:
        data = json.loads(content)
    except ValueError as error:
        return f": JSON that is cut or damaged ({error})"
    if "model" in data:
        return ": it looks like a tokenizer.json; use --data.tokenizer huggingface"
    if "tokenizer_class" in data or "added_tokens_decoder" in data:
        return ": it is a tokenizer_config.json; give the tokenizer.json beside it"
    return ": it is JSON without a model, perhaps a vocab.json; give the tokenizer.json beside it"
