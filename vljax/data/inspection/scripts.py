"""Which script a text is written in."""

from __future__ import annotations

import functools
from typing import Any

SCRIPTS = (
    "Latin",
    "Cyrillic",
    "Greek",
    "Arabic",
    "Hebrew",
    "Devanagari",
    "Bengali",
    "Gujarati",
    "Gurmukhi",
    "Tamil",
    "Telugu",
    "Kannada",
    "Malayalam",
    "Sinhala",
    "Thai",
    "Lao",
    "Khmer",
    "Myanmar",
    "Tibetan",
    "Georgian",
    "Armenian",
    "Ethiopic",
    "Han",
    "Hiragana",
    "Katakana",
    "Hangul",
    "other",
    "no letters",
)
"""Unicode's names (UAX 24); "other" stands for the rest of them."""


def script_of(text: str) -> str:
    """The script that most letters of a text are of; of two with as many, the first in `SCRIPTS`.

    Marks that a script puts on its letters count with them.
    """
    if text.isascii():
        return "Latin" if any(map(str.isalpha, text)) else "no letters"
    counts: dict[str, int] = {}
    for found in _runs().finditer(text):
        name = SCRIPTS[found.lastindex - 1]
        counts[name] = counts.get(name, 0) + len(found.group())
    return max(SCRIPTS, key=lambda name: counts.get(name, 0)) if counts else "no letters"


@functools.cache
def _runs() -> Any:
    import regex

    named = [rf"([[\p{{L}}\p{{M}}]&&\p{{Script={name}}}]+)" for name in SCRIPTS[:-2]]
    return regex.compile("|".join([*named, r"(\p{L}+)"]), regex.V1)
