"""CLIP's byte-pair encoding in Python, for texts that the Rust library would encode differently.

These are rare: texts with letters that are newer than that library's Unicode tables, and texts with
capitals if the cleaning keeps them. Exported programs contain a copy of this file, so it imports
nothing from vljax.
"""

from __future__ import annotations

import functools
import heapq
from collections.abc import Callable, Sequence
from typing import Any

# Radford et al. 2021, clip/simple_tokenizer.py, with the special tokens as open_clip calls them.
_PATTERN = (
    r"<start_of_text>|<end_of_text>"
    r"|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"
)
_SPECIAL = {"<start_of_text>": 49406, "<end_of_text>": 49407}

# The bytes of ids 0 to 255, and at the end of a word of ids 256 to 511: printable Latin-1 first, as
# in GPT-2's `bytes_to_unicode`.
_PRINTABLE = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
_BYTES = bytes([*_PRINTABLE, *(byte for byte in range(256) if byte not in _PRINTABLE)])

# A token may begin or end within a UTF-8 character, and then does not decode on its own. Between
# one of these prefixes and one of these suffixes, every token makes whole characters.
_PREFIXES = [b"", b"\xc3", b"\xe3", b"\xe3\x81", b"\xf0", b"\xf0\x9f", b"\xf0\x9f\x98"]
_SUFFIXES = [b"", b"\xa0", b"\x80", b"\xa0\x80", b"\x80\x80", b"\xa0\x80\x80"]

_WORD_END = b" "  # words never contain a space


class ClipBpe:
    """Splits texts into words with the `regex` package, as open_clip does, and words into ids.

    Args:
      ids: bytes of each token -> id; a token at the end of a word has a space as its last byte.
    """

    def __init__(self, ids: dict[bytes, int]):
        import regex

        self._ids = ids
        self._pattern: Any = regex.compile(_PATTERN, regex.IGNORECASE)
        self._word_ids = functools.lru_cache(2**14)(self._encode_word)

    @classmethod
    def from_decode(cls, decode: Callable[[Sequence[int]], str]) -> ClipBpe:
        """Read the vocabulary from `decode`, which decodes broken characters as U+FFFD."""
        ids = {_BYTES[i : i + 1]: i for i in range(256)}
        ids |= {_BYTES[i : i + 1] + _WORD_END: 256 + i for i in range(256)}
        return cls(ids | {_token_bytes(decode, i): i for i in range(512, min(_SPECIAL.values()))})

    def encode(self, text: str) -> list[int]:
        """The ids of a text, without begin and end tokens."""
        return [token for word in self._pattern.findall(text) for token in self._word_ids(word)]

    def _encode_word(self, word: str) -> list[int]:
        if word in _SPECIAL:
            return [_SPECIAL[word]]
        data = word.encode()
        parts = [data[i : i + 1] for i in range(len(data))]
        parts[-1] += _WORD_END
        return [self._ids[part] for part in _merged(parts, self._ids)]


def _merged(parts: list[bytes], ranks: dict[bytes, int]) -> list[bytes]:
    """Merges pairs of neighbours by rank, and from the left where ranks are equal.

    If two parts join to a token, training merged that token from just these two. So the ids, which
    are ranks, replace the list of merges. A heap and links between neighbours make the time nearly
    proportional to the length, also for a text without any space.
    """
    after = [*range(1, len(parts)), -1]
    before = [*range(-1, len(parts) - 1)]

    def pair(left: int) -> tuple[int, int, bytes] | None:
        joined = parts[left] + parts[after[left]]
        rank = ranks.get(joined)
        return None if rank is None else (rank, left, joined)

    heap = [found for i in range(len(parts) - 1) if (found := pair(i))]
    heapq.heapify(heap)
    while heap:
        _, left, joined = heapq.heappop(heap)
        right = after[left]
        if right < 0 or not parts[left] or parts[left] + parts[right] != joined:
            continue  # one of them is part of another token by now
        parts[left], parts[right] = joined, b""
        after[left] = after[right]
        if after[left] >= 0:
            before[after[left]] = left
        for start in (before[left], left):
            if start >= 0 and after[start] >= 0 and (found := pair(start)):
                heapq.heappush(heap, found)
    return [part for part in parts if part]


def _token_bytes(decode: Callable[[Sequence[int]], str], token: int) -> bytes:
    for prefix in _PREFIXES:
        for suffix in _SUFFIXES:
            before, after = ([_BYTES.index(byte) for byte in part] for part in (prefix, suffix))
            text = decode([*before, token, *after])
            if "\ufffd" not in text:
                data = text.encode()
                return data[len(prefix) : len(data) - len(suffix)]
    # The token is U+FFFD itself.
    return decode([token]).encode()
