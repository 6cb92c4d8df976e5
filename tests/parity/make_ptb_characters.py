"""Makes `vljax/evaluation/metrics/ptb_characters.txt` by asking the official tokenizer.

    pip install pycocoevalcap==1.2   # and a Java runtime
    python -m tests.parity.make_ptb_characters

Every character of the Basic Multilingual Plane is put into four texts. The tokens of Stanford
CoreNLP 3.4.1 tell its class: a digit joins a number before its point, a letter a word with digits,
a mark a word without them, a symbol nothing. Characters that are dropped or replaced (quotes,
dashes, fractions) have no class; `ptb.py` has rules for them.
"""

import textwrap
from pathlib import Path

from tests.parity.official_captions import separate_tokens

FILE = Path(__file__).parents[2] / "vljax/evaluation/metrics/ptb_characters.txt"
LINE_BREAKS = (0x85, 0x2028, 0x2029)
TEXTS = ("{}", "q{}q", "1{}1", "{}.5")
CLASSES = ("letters", "marks", "digits", "symbols")


def class_of(character: str, alone: list, word: list, number: list, point: list) -> str | None:
    """The class, from the tokens of the four texts."""
    lower = character.lower()
    if alone not in ([character], [lower]):
        return None
    if len(word) > 1:
        return "symbols"
    if len(number) > 1:
        return "marks"
    return "digits" if len(point) == 1 else "letters"


def spans(codes: list[int]) -> list[str]:
    """Hexadecimal numbers, with those that follow each other as FIRST..LAST."""
    found: list[list[int]] = []
    for code in codes:
        if found and code == found[-1][1] + 1:
            found[-1][1] = code
        else:
            found.append([code, code])
    return [f"{a:04X}" if a == b else f"{a:04X}..{b:04X}" for a, b in found]


def main() -> None:
    """Writes the file."""
    codes = [code for code in range(0x80, 0x10000) if not 0xD800 <= code < 0xE000]
    codes = [code for code in codes if code not in LINE_BREAKS]
    tokens = [separate_tokens([text.format(chr(code)) for code in codes]) for text in TEXTS]
    members: dict[str, list[int]] = {name: [] for name in CLASSES}
    for code, *found in zip(codes, *tokens, strict=True):
        name = class_of(chr(code), *found)
        if name is not None:
            members[name].append(code)
    lines = []
    for name, its in members.items():
        lines.append(name)
        text = " ".join(spans(its))
        lines += textwrap.wrap(text, 98, initial_indent=" ", subsequent_indent=" ")
    FILE.write_text("\n".join(lines) + "\n", "utf-8")
    print(f"{FILE.name}: " + ", ".join(f"{len(its)} {name}" for name, its in members.items()))


if __name__ == "__main__":
    main()
