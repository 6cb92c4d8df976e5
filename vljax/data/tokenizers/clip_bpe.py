"""CLIP's byte-pair encoding in Python, for the texts that the Rust library sees otherwise.

They are rare: text in letters that Unicode has got since that library was made, or in capitals that
no cleaning has taken away.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Sequence
from typing import Any

# Radford et al. 2021, clip/simple_tokenizer.py, with the special tokens as open_clip calls them.
_PATTERN = (
    r"<start_of_text>|<end_of_text>"
    r"|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"
)
_SPECIAL = {"<start_of_text>": 49406, "<end_of_text>": 49407}

# The order of the first 256 ids, and with the end of a word of the 256 after them: printable
# Latin-1 first, as in GPT-2's `bytes_to_unicode`.
_PRINTABLE = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
_BYTES = bytes([*_PRINTABLE, *(byte for byte in range(256) if byte not in _PRINTABLE)])

# A token may hold parts of characters. Between these bytes, each token is whole characters.
_BEFORE = [b"", b"\xc3", b"\xe3", b"\xe3\x81", b"\xf0", b"\xf0\x9f", b"\xf0\x9f\x98"]
_AFTER = [b"", b"\xa0", b"\x80", b"\xa0\x80", b"\x80\x80", b"\xa0\x80\x80"]

_WORD_END = b" "  # a word has no space in it


class ClipWords:
    """Splits texts into words as the reference does, by the same package, and words into ids.

    Args:
      ids: the bytes of each token -> its id; the last byte is a space at the end of a word.
    """

    def __init__(self, ids: dict[bytes, int]):
        import regex

        self._ids = ids
        self._pattern: Any = regex.compile(_PATTERN, regex.IGNORECASE)
        self._word = functools.lru_cache(2**14)(self._encode_word)

    @classmethod
    def from_decode(cls, decode: Callable[[Sequence[int]], str]) -> ClipWords:
        """From a tokenizer that makes text of ids, a replacement character of a broken one."""
        ids = {_BYTES[i : i + 1]: i for i in range(256)}
        ids |= {_BYTES[i : i + 1] + _WORD_END: 256 + i for i in range(256)}
        return cls(ids | {_token_bytes(decode, i): i for i in range(512, min(_SPECIAL.values()))})

    def encode(self, text: str) -> list[int]:
        """The ids of a text, without those that begin and end it."""
        return [token for word in self._pattern.findall(text) for token in self._word(word)]

    def _encode_word(self, word: str) -> list[int]:
        if word in _SPECIAL:
            return [_SPECIAL[word]]
        data = word.encode()
        parts = [data[i : i + 1] for i in range(len(data))]
        parts[-1] += _WORD_END
        while len(parts) > 1:
            # Two parts that make up a token are the two that the token was merged from in training,
            # so its id, which is its rank, can stand for the list of merges.
            pairs = [self._ids.get(a + b) for a, b in itertools.pairwise(parts)]
            best = min((rank for rank in pairs if rank is not None), default=None)
            if best is None:
                break
            parts = _merged(parts, pairs, best)
        return [self._ids[part] for part in parts]


def _merged(parts: list[bytes], pairs: list[int | None], best: int) -> list[bytes]:
    """The parts with every pair of that rank made one, from the left."""
    merged, i = list[bytes](), 0
    while i < len(parts):
        width = 2 if i < len(pairs) and pairs[i] == best else 1
        merged.append(b"".join(parts[i : i + width]))
        i += width
    return merged


def _token_bytes(decode: Callable[[Sequence[int]], str], token: int) -> bytes:
    for before in _BEFORE:
        for after in _AFTER:
            around = [[_BYTES.index(byte) for byte in part] for part in (before, after)]
            text = decode([*around[0], token, *around[1]])
            if "\ufffd" not in text:
                data = text.encode()
                return data[len(before) : len(data) - len(after)]
    # It is the replacement character itself.
    return decode([token]).encode()
