"""English names of objects: found in captions, with articles and plurals."""

from __future__ import annotations

import itertools
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
    texture sign one two three four five six seven eight nine up drawn driving opening
"""
# Nouns that have neither an article nor a plural.
_MASS = """
    bacon bamboo beckham beer bread breakdance butter cheese clothing coffee einstein equipment fire
    fitness flour food fruit furniture garlic grass hair honey ice insecticide jewelry judo juice
    jupiter lasagna lemonade lotion luggage meat milk money mud music paper pasta police rain rice
    salad salt sand saturn smoke snow soap soup sugar sunshine tea toast venus water weather wheat
    wine wood wool yoga
"""
# Adjectives that some captions put behind the noun; "orange" may be the fruit.
_COLOUR_WORDS = frozenset({*COLOURS, "gray"})
_ADJECTIVES = {*_COLOUR_WORDS, "bitten", "closed", "open", "shaded", "simple"} - {"orange"}
_PREPOSITION = re.compile(r" (?:of|with) ")
# Words for the same thing. A word means the last of its line.
_SYNONYMS = {
    word: line.split()[-1]
    for line in """
        airplane plane aircraft
        bike bicycle
        bunny rabbit
        burger hamburger
        cog gear
        gull seagull
        motorbike motorcycle
        phone telephone
        tux penguin
        tv television
    """.strip().splitlines()
    for word in line.split()
}
_PLURAL = re.compile(
    r"(?<!s)(?<!u)(?<!i)s$(?<!^gas)(?<!lens)(?<!atlas)(?<!canvas)(?<!christmas)"
    r"|men$|^(?:children|feet|geese|mice|people|teeth|fungi|cacti|dice|antennae)$"
)
_VOWEL_SOUND = re.compile(r"(?!uni(?!n)|use|euro|one\b|ukulele|ewe)[aeiou]|hour|honest|heir", re.I)
# In "woman doctor" both words take the plural, in "woman eye" only the last.
_WOMAN_OF_TRADE = re.compile(r"^woman (?=\w+(?:er|or|ist)$)")
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

    An adjective behind the noun moves to the front.

    >>> object_name("A paw print."), object_name("Cup of tea"), object_name("2 dead frogs")
    ('paw print', 'cup of tea', None)
    >>> object_name("folder closed")
    'closed folder'
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
    *nouns, last = name.split()
    if nouns and last in _ADJECTIVES and not _PREPOSITION.search(name):
        name = " ".join([last, *nouns])
    parts = re.split(r"[ -]", name)
    if set(_OTHER_WORDS.split()) & set(parts) or parts[-1].endswith("ing"):
        return None
    head = _PREPOSITION.split(name)[0].split()[-1]
    if head in _MASS.split() or _PLURAL.search(head):
        return None
    return name


def colour_words(name: str) -> frozenset[str]:
    """The colours in a name."""
    return frozenset(re.split(r"[ -]", name)) & _COLOUR_WORDS


def spelling(name: str) -> str:
    """A name without spaces and hyphens: equal for "paper clip", "paper-clip" and "paperclip"."""
    return re.sub("[ -]", "", name)


def key_words(name: str) -> frozenset[str]:
    """Words that another name of the same thing may share, without colours.

    Synonyms are one word, and two words in a row are also one, since a name may be written as two
    words or as one.

    >>> sorted(key_words("blue paper clip")), sorted(key_words("cog"))
    (['clip', 'paper', 'paperclip'], ['gear'])
    """
    words = [word for word in re.split("[ -]", name) if word not in _COLOUR_WORDS]
    joined = {first + second for first, second in itertools.pairwise(words)}
    found = joined.union(word for word in words if len(word) > 2)
    return frozenset(_SYNONYMS.get(word, word) for word in found)


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
    >>> plural("note with pin"), plural("woman doctor")
    ('notes with pin', 'women doctors')
    """
    preposition = _PREPOSITION.search(name)
    cut = preposition.start() if preposition else len(name)
    thing, rest = _WOMAN_OF_TRADE.sub("women ", name[:cut]), name[cut:]
    for pattern, ending in _PLURALS:
        several, found = pattern.subn(ending, thing, count=1)
        if found:
            return several + rest
    return f"{thing}s{rest}"
