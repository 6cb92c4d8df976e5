"""Captions composed from the built-in data set's, with all that a tokenizer has to decide on."""

from __future__ import annotations

import json
import random
from pathlib import Path

ITEMS = Path(__file__).parents[2] / "vljax/datasets/builtin/items.jsonl"
WORDS = sorted(
    {
        word
        for line in ITEMS.read_text("utf-8").splitlines()
        for word in json.loads(line)["caption"].split()
    }
)
COMMON = (  # noqa: SIM905
    "a an the two man men woman person people dog dogs cat child kids children boy riding rides "
    "horse horses on in at with near of beach road big large small red car cars sitting sits couch "
    "sofa playing plays ball running runs walk walking eats food is are standing and its it not "
    "picture photo image old group water ocean house"
).split()
SPECIAL = (  # noqa: SIM905
    "dog's can't O'Brien Mr. Inc. U.S. a.m. etc. Ph.D. e.g. AT&T x-ray F-16 3.5 1,000 1/2 10:30 12 "
    "456 7890 555-1234 $5 £3 5% #tag @user http://a.com/x?y=1 www.foo.org foo.com a@b.com 123.jpg "
    "café naïve Straße 北京 Ω don’t it’s “hi” ‘x’ … – — ½ ° © 😀 &amp; &lt; &quot; &nbsp; <b> </b> "
    "<br/> cannot gonna 'tis 'em 'cause 'n' o'clock y'all d'you l'eau '90s 1990s 1st No. no. pp. "
    "C++ C# :) ;-) :( :D ^_^ and/or w/o A/C St. Jr. Co. Yahoo! well-known -ish Jan. Sept. I'm "
    "they're we'd she'll rock'n'roll ma'am shouldn't've soft\u00adhyphen (a) [b] {c} T.V. b."
).split()
MARKS = [
    *"'\"`.,;:!?()[]{}<>-_/\\*&%$#@+=~^|",
    "''",
    "``",
    "--",
    "...",
    "n't",
    "’",
    "“",
    "”",
    "\u00a0",
]


def caption(draw: random.Random, special: float = 0.1, longest: int = 12) -> str:
    """A caption; some are empty."""
    words = []
    for _ in range(draw.choice([0, 1, *range(2, longest + 1)])):
        kind = draw.random()
        word = draw.choice(SPECIAL if kind < special else WORDS if kind < 0.4 else COMMON)
        if draw.random() < special:
            word += draw.choice(".,!?;:'\")")
        if draw.random() < special / 2:
            word = draw.choice(MARKS) + word
        words.append(word)
    return " ".join(words)


def changed(draw: random.Random, text: str, special: float = 0.1) -> str:
    """The caption with some words put in, left out or replaced."""
    words = text.split(" ")
    for _ in range(draw.randint(0, 4)):
        at = draw.randrange(len(words) + 1)
        kind = draw.random()
        new = draw.choice(SPECIAL if draw.random() < special else COMMON)
        if kind < 0.4:
            words.insert(at, new)
        elif at < len(words):
            words[at : at + 1] = [] if kind < 0.6 else [new]
    return " ".join(words)


def corpus(seed: int, examples: int, references: int, special: float = 0.1) -> dict[str, list]:
    """Candidates and references; with 0 references each example has one to six."""
    draw = random.Random(seed)
    candidates, several = [], []
    for _ in range(examples):
        base = caption(draw, special)
        candidates.append(changed(draw, base, special))
        several.append(
            [
                changed(draw, base, special) if draw.random() < 0.8 else caption(draw, special)
                for _ in range(references or draw.randint(1, 6))
            ]
        )
    return {"candidates": candidates, "references": several}
