"""English names of objects: found in captions, with articles and plurals."""

from __future__ import annotations

import re

COLOURS = (
    "black",
    "white",
    "grey",
    "red",
    "orange",
    "brown",
    "yellow",
    "green",
    "blue",
    "purple",
    "pink",
)

NUMBERS = ("no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")

_MOST_WORDS = 3
_NAME = re.compile(r"[A-Za-z](?:[a-z]+|(?=-))(?:[ -][a-z]+)*")
# A caption with one of these words says more than what an object is, or names several objects.
_OTHER_WORDS = """
    a an the and or not no from in on at by for to being some many several pair set group collection
    both various behind sketch drawing plays pose icon symbol silhouette contour outline pattern
    texture sign one two three four five six seven eight nine
"""
# Nouns that have neither an article nor a plural.
_MASS = """
    beer bread butter cheese clothing coffee equipment fire flour food fruit furniture garlic grass
    hair honey ice jewelry juice lemonade luggage meat milk money mud music paper pasta rain rice
    salad salt sand smoke snow soap soup sugar sunshine tea toast water weather wheat wine wood wool
"""
_PLURAL = re.compile(
    r"(?<!s)(?<!u)(?<!i)s$(?<!^gas)(?<!lens)(?<!atlas)(?<!canvas)(?<!christmas)"
    r"|men$|^(?:children|feet|geese|mice|people|teeth|fungi|cacti|dice|antennae)$"
)
_VOWEL_SOUND = re.compile(r"(?!uni(?!n)|use|euro|one\b|ukulele|ewe)[aeiou]|hour|honest|heir", re.I)
# The first pattern that matches the end of a name, and its replacement in the plural.
_PLURALS = [
    (re.compile(pattern), ending)
    for pattern, ending in (
        (r"\b(aircraft|deer|fish|moose|offspring|salmon|sheep|shrimp|squid|trout|bison)$", r"\1"),
        (r"(?<![a-z])(ox)$", r"\1en"),
        (r"child$", "children"),
        (r"person$", "people"),
        (r"(?<!hu)(?<!ger)(?<!ro)man$", "men"),
        (r"foot$", "feet"),
        (r"tooth$", "teeth"),
        (r"\bgoose$", "geese"),
        (r"\b(m|l)ouse$", r"\1ice"),
        (r"\b(kni|wi|li)fe$", r"\1ves"),
        (r"(lea|loa|shel|hal|wol|el|cal|thie|shea)f$", r"\1ves"),
        (r"([^aeiou])y$", r"\1ies"),
        (r"(s|x|z|ch|sh)$", r"\1es"),
        (r"\b(potat|tomat|her|ech|torped|volcan|domin|mang|mosquit)o$", r"\1oes"),
    )
]


def object_name(caption: str) -> str | None:
    """The name of the object if a caption names just one; None for any other caption.

    >>> object_name("A paw print."), object_name("Cup of tea"), object_name("2 dead frogs")
    ('paw print', 'cup of tea', None)
    """
    words = caption.strip().rstrip(".").split()
    if words and words[0].lower() in ("a", "an"):
        words = words[1:]
    if all(word.istitle() for word in words):
        words = [word.lower() for word in words]
    text = " ".join(words)
    if not 1 <= len(words) <= _MOST_WORDS or not _NAME.fullmatch(text):
        return None
    name = text[0].lower() + text[1:]
    parts = re.split(r"[ -]", name)
    if set(_OTHER_WORDS.split()) & set(parts) or parts[-1].endswith("ing"):
        return None
    head = name.partition(" of ")[0].split()[-1]
    if head in _MASS.split() or _PLURAL.search(head):
        return None
    return name


def colour_words(name: str) -> frozenset[str]:
    """The colours in a name."""
    return frozenset(re.split(r"[ -]", name)) & {*COLOURS, "gray"}


def with_article(name: str) -> str:
    """A name with its indefinite article.

    >>> with_article("apple"), with_article("unicorn")
    ('an apple', 'a unicorn')
    """
    return f"{'an' if _VOWEL_SOUND.match(name) else 'a'} {name}"


def plural(name: str) -> str:
    """The plural of a name.

    >>> plural("cup of tea"), plural("leaf")
    ('cups of tea', 'leaves')
    """
    thing, of, rest = name.partition(" of ")
    for pattern, ending in _PLURALS:
        several, found = pattern.subn(ending, thing, count=1)
        if found:
            return several + of + rest
    return f"{thing}s{of}{rest}"
