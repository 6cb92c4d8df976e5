"""10,000 strings to compare tokenizers on: every script, emoji, traps, very long ones.

They are the same on every machine and Python version: code points come from the ranges below, not
from the Unicode tables of the running Python.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable

# How the ids of the strings are kept: rows of `CONTEXT`, a digest for each `CHUNK` of strings.
CONTEXT = 4096
CHUNK = 250

# The letters of scripts that Unicode 14 knows, which Python 3.11 has: what is a letter there, and
# its lower case, has not changed since.
SCRIPTS = {
    "latin": [(0x41, 0x5A), (0x61, 0x7A), (0xC0, 0x24F), (0x1E00, 0x1EFF)],
    "ipa": [(0x250, 0x2AF), (0x1D00, 0x1D7F)],
    "greek": [(0x391, 0x3A1), (0x3A3, 0x3C9), (0x1F00, 0x1F15)],
    "cyrillic": [(0x400, 0x52F), (0x1C80, 0x1C88)],
    "armenian": [(0x531, 0x556), (0x561, 0x587)],
    "hebrew": [(0x5D0, 0x5EA), (0x591, 0x5BD)],
    "arabic": [(0x620, 0x669), (0x66E, 0x6D3), (0xFB50, 0xFBB1)],
    "syriac": [(0x710, 0x74A)],
    "thaana": [(0x780, 0x7B1)],
    "devanagari": [(0x900, 0x97F)],
    "bengali": [(0x985, 0x98C), (0x9AA, 0x9B0), (0x9BE, 0x9C4), (0x9E6, 0x9EF)],
    "gurmukhi": [(0xA05, 0xA0A), (0xA13, 0xA28), (0xA66, 0xA74)],
    "gujarati": [(0xA85, 0xA8D), (0xA93, 0xAA8), (0xABC, 0xAC5)],
    "tamil": [(0xB85, 0xB8A), (0xBAE, 0xBB9), (0xBBE, 0xBC2), (0xBE6, 0xBFA)],
    "telugu": [(0xC05, 0xC0C), (0xC12, 0xC28), (0xC3D, 0xC44)],
    "kannada": [(0xC85, 0xC8C), (0xC92, 0xCA8), (0xCBC, 0xCC4)],
    "malayalam": [(0xD05, 0xD0C), (0xD12, 0xD44)],
    "sinhala": [(0xD85, 0xD96), (0xD9A, 0xDB1), (0xDCF, 0xDD4)],
    "thai": [(0xE01, 0xE3A), (0xE40, 0xE5B)],
    "lao": [(0xE94, 0xEA3), (0xEA7, 0xEBD), (0xED0, 0xED9)],
    "tibetan": [(0xF00, 0xF47), (0xF71, 0xF97)],
    "myanmar": [(0x1000, 0x109F)],
    "georgian": [(0x10A0, 0x10C5), (0x10D0, 0x10FF), (0x1C90, 0x1CBA)],
    "hangul": [(0xAC00, 0xD7A3), (0x1100, 0x11FF)],
    "ethiopic": [(0x1200, 0x1248), (0x12D8, 0x1310)],
    "cherokee": [(0x13A0, 0x13F5), (0xAB70, 0xABBF)],
    "syllabics": [(0x1401, 0x167F)],
    "runic": [(0x16A0, 0x16F8)],
    "khmer": [(0x1780, 0x17DD), (0x17E0, 0x17E9)],
    "mongolian": [(0x1820, 0x1878)],
    "kana": [(0x3041, 0x3096), (0x30A1, 0x30FF), (0xFF66, 0xFF9D)],
    "han": [(0x4E00, 0x9FA5), (0x3400, 0x4DB5), (0x20000, 0x2A6D6)],
    "bopomofo": [(0x3105, 0x312D)],
    "yi": [(0xA000, 0xA48C)],
    "gothic": [(0x10330, 0x1034A)],
    "deseret": [(0x10400, 0x1044F)],
    "osage": [(0x104B0, 0x104D3), (0x104D8, 0x104FB)],
    "egyptian": [(0x13000, 0x1342E)],
    "adlam": [(0x1E900, 0x1E943)],
    "cuneiform": [(0x12000, 0x12399)],
    "mathematical": [(0x1D400, 0x1D454), (0x1D552, 0x1D6A5)],
    "fullwidth": [(0xFF01, 0xFF5E), (0x1F100, 0x1F10C)],
    # Letters of Unicode 15 and later without case: Kawi, Tulu-Tigalari, Gurung Khema, CJK I and J.
    "younger": [(0x11F04, 0x11F10), (0x11392, 0x113B5), (0x16100, 0x1611D), (0x2EBF0, 0x2EE5D)],
}
NUMBERS = [(0x30, 0x39), (0xB2, 0xB3), (0xBC, 0xBE), (0x660, 0x669), (0x966, 0x96F)]
NUMBERS += [(0x2150, 0x2188), (0x2460, 0x249B), (0x3220, 0x3229), (0x1D7CE, 0x1D7FF)]
PUNCTUATION = [(0x21, 0x2F), (0x3A, 0x40), (0x5B, 0x60), (0x7B, 0x7E), (0xA1, 0xBF)]
PUNCTUATION += [(0x2010, 0x2027), (0x2030, 0x205E), (0x3001, 0x3020), (0x2190, 0x22FF)]
MARKS = [(0x300, 0x344), (0x346, 0x36F), (0x20D0, 0x20F0), (0xFE00, 0xFE0F)]
CONTROL = [(0x0, 0x1F), (0x7F, 0x9F), (0xAD, 0xAD), (0x200B, 0x200F), (0x2028, 0x202E)]
CONTROL += [(0x2060, 0x2064), (0xFEFF, 0xFEFF), (0xFFF9, 0xFFFD), (0xE0001, 0xE007F)]
SPACES = [(0x9, 0xD), (0x1C, 0x20), (0x85, 0x85), (0xA0, 0xA0), (0x1680, 0x1680)]
SPACES += [(0x2000, 0x200A), (0x2028, 0x2029), (0x202F, 0x202F), (0x205F, 0x205F), (0x3000, 0x3000)]
EMOJI = [(0x1F300, 0x1F5FF), (0x1F600, 0x1F64F), (0x1F680, 0x1F6C5), (0x1F900, 0x1F9FF)]
EMOJI += [(0x2600, 0x27BF), (0x1F1E6, 0x1F1FF), (0x1F3FB, 0x1F3FF)]
# Private use, noncharacters, and planes where nothing is assigned.
NOTHING = [(0xE000, 0xF8FF), (0xFDD0, 0xFDEF), (0x50000, 0x500FF), (0x10FF00, 0x10FFFF)]

PIECES = [
    *("'s", "'t", "'re", "'ve", "'m", "'ll", "'d", "'S", "'LL", "'ſ", "’s", "it's", "y'all'd've"),
    *("<start_of_text>", "<END_OF_TEXT>", "<ſtart_of_text>", "<|startoftext|>", "<|endoftext|>"),
    *(
        "</w>",
        "w</w>",
        "<pad>",
        "</s>",
        "<s>",
        "<unk>",
        "<bos>",
        "<eos>",
        "[CLS]",
        "[PAD]",
        "<0x0A>",
    ),
    *("&amp;", "&amp;amp;lt;", "&lt;p&gt;", "&#39;", "&#x1F600;", "&nbsp;", "&#0;", "&#133;", "&"),
    *("â€™", "schÃ¶n", "ï»¿", "Ã©", "&Eacute;", "ﬁ", "ﬀ", "\x1b[31m", "\ufeff", "\x00", "\x85"),
    *("http://x.org/a?b=c&d=%20", "user@example.com", "3.14159", "1,000,000", "２０２４", "½", "Ⅷ"),
    *(
        "👨‍👩‍👧‍👦",
        "🇩🇪",
        "👍🏽",
        "❤️",
        "🏴󠁧󠁢󠁥󠁮󠁧󠁿",
        "☺️",
        "e\u0301",
        "\u0345",
        "ᾳ",
        "İ",
        "ı",
        "ß",
        "ẞ",
        "Σ",
        "ς",
    ),
    *(
        "snake_case",
        "CamelCase",
        "don't",
        "▁",
        "▁▁a",
        "Ġ",
        "Ċ",
        "##ing",
        "\t",
        "\n",
        "\r\n",
        "  ",
        "_",
    ),
    *("\ud7ff", "\ue000", "\U0010ffff", "a\u00adb", "\u200d", "\u2028", "\u3000", "\u1680", "\x1c"),
]
_TEXT = """
a photo of the cat dog on in with two red small large wooden beach mountain playing ball
birthday cake street sign black white bicycle woman man child holding umbrella train station
close up view kitchen table bowl fruit running through grass sunset ocean waves vintage
illustration poster The Quick BROWN fox antidisestablishmentarianism pneumonoultramicroscopic x
qq zzz 12 2024 7th
"""
WORDS = _TEXT.split()

Ranges = list[tuple[int, int]]


def strings() -> list[str]:
    """The strings, in an order of their own."""
    rng = random.Random(20260101)
    makers: list[tuple[int, Callable[[random.Random], str]]] = [
        (2000, _caption),
        (1600, _mixed_scripts),
        (1200, _pieces),
        (600, lambda r: _draw(r, [*EMOJI, (0x200D, 0x200D), (0xFE0F, 0xFE0F)], 1, 12)),
        (600, lambda r: _draw(r, [*PUNCTUATION, *NUMBERS, (0x20, 0x20), (0x61, 0x66)], 1, 30)),
        (500, lambda r: _draw(r, [*CONTROL, *SPACES, (0x41, 0x7A)], 1, 20)),
        (300, lambda r: _draw(r, [*MARKS, (0x61, 0x7A), (0x300, 0x301)], 2, 16)),
        (300, lambda r: _draw(r, [*NOTHING, *EMOJI, (0x41, 0x7A)], 1, 12)),
        (300, _anything),
        (50, _very_long),
    ]
    made = [script for name in SCRIPTS for script in _script(rng, SCRIPTS[name], 50)]
    made += [make(rng) for count, make in makers for _ in range(count)]
    made += ["", " ", "\n", "\x00", "'", "a"]
    made += [_caption(rng) for _ in range(10_000 - len(made))]
    return made


def digest(texts: list[str]) -> str:
    """A hash that tells whether another machine made the same strings."""
    return hashlib.sha256("\x00\x01".join(texts).encode()).hexdigest()


def _character(rng: random.Random, ranges: Ranges) -> str:
    low, high = ranges[rng.randrange(len(ranges))]
    return chr(rng.randint(low, high))


def _draw(rng: random.Random, ranges: Ranges, shortest: int, longest: int) -> str:
    return "".join(_character(rng, ranges) for _ in range(rng.randint(shortest, longest)))


def _script(rng: random.Random, ranges: Ranges, count: int) -> list[str]:
    words = [[_draw(rng, ranges, 1, 9) for _ in range(rng.randint(1, 6))] for _ in range(count)]
    return [rng.choice(" ,-'\u00a0").join(line) for line in words]


def _caption(rng: random.Random) -> str:
    text = " ".join(rng.choices(WORDS, k=rng.randint(1, 16)))
    return text + rng.choice(["", ".", "!", "...", " :)", ' "!?"', " #1", " & co.", "'s", " (2)"])


def _mixed_scripts(rng: random.Random) -> str:
    parts = [_draw(rng, SCRIPTS[rng.choice(list(SCRIPTS))], 1, 6) for _ in range(rng.randint(2, 6))]
    return rng.choice(["", " ", "'", ".", "1", "-"]).join(parts)


def _pieces(rng: random.Random) -> str:
    parts = [rng.choice(PIECES if rng.random() < 0.7 else WORDS) for _ in range(rng.randint(1, 7))]
    return rng.choice(["", " ", " "]).join(parts)


def _anything(rng: random.Random) -> str:
    groups = [NUMBERS, PUNCTUATION, MARKS, CONTROL, SPACES, EMOJI, NOTHING, *SCRIPTS.values()]
    return "".join(_character(rng, rng.choice(groups)) for _ in range(rng.randint(1, 40)))


def _very_long(rng: random.Random) -> str:
    length = rng.choice([300, 1000, 3000])
    kind = rng.randrange(5)
    if kind == 0:
        return " ".join(rng.choices(WORDS, k=length))
    if kind == 1:
        return rng.choice(["a", "ab", "!", "1", "z'", "é", "日本", "👍", "_"]) * length
    if kind == 2:
        return "".join(rng.choices(WORDS, k=length // 5))
    if kind == 3:
        return _draw(rng, SCRIPTS[rng.choice(list(SCRIPTS))], length, length)
    return _draw(rng, [*PUNCTUATION, *EMOJI, (0x61, 0x7A)], length, length)
