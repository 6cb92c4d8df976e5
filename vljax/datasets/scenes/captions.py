"""Write the captions of a scene, and mark the phrases in them that name objects."""

from __future__ import annotations

import numpy as np

from vljax.data.records import Phrase
from vljax.datasets.scenes.content import Content
from vljax.datasets.scenes.names import NUMBERS, colour_words, with_article

RELATIONS = {
    "left": "to the left of",
    "right": "to the right of",
    "above": "above",
    "below": "below",
}

# A piece of a caption, and the objects that it names.
Piece = tuple[str, tuple[int, ...]]


def write(
    rng: np.random.Generator, content: Content, background: str
) -> tuple[tuple[str, ...], tuple[Phrase, ...]]:
    """Write captions and phrases.

    The first caption names all objects, the second adds colours and the background, a third says
    where two objects are relative to each other, if that is clear.
    """
    order = rng.permutation(len(content.things)).tolist()
    plain = [_name_objects(content, kind, coloured=False) for kind in order]
    coloured = [_name_objects(content, kind, coloured=True) for kind in order]
    texts = [_join(plain), _join(coloured) + ([(f" {background}", ())] if background else [])]
    related = _relation(rng, content)
    if related:
        texts.append(related)
    captions, phrases = [], []
    for number, pieces in enumerate(texts):
        caption = ""
        for text, regions in pieces:
            if regions:
                phrases.append(Phrase(number, len(caption), len(caption) + len(text), regions))
            caption += text
        captions.append(caption)
    return tuple(captions), tuple(phrases)


def _name_objects(content: Content, kind: int, *, coloured: bool) -> Piece:
    """All objects of a kind, such as "two red apples"."""
    thing = content.things[kind]
    regions = tuple(i for i, item in enumerate(content.objects) if item.kind == kind)
    colours = {content.objects[i].cutout.colour for i in regions}
    colour = next(iter(colours)) if len(colours) == 1 else None
    shown = coloured and colour is not None and not colour_words(thing.name)
    adjective = f"{colour} " if shown else ""
    if len(regions) == 1:
        return with_article(adjective + thing.name), regions
    return f"{NUMBERS[len(regions)]} {adjective}{thing.plural}", regions


def _join(pieces: list[Piece]) -> list[Piece]:
    """Join pieces as in "a, b and c"."""
    joined: list[Piece] = []
    for i, piece in enumerate(pieces):
        if i:
            joined.append((" and " if i == len(pieces) - 1 else ", ", ()))
        joined.append(piece)
    return joined


def _relation(rng: np.random.Generator, content: Content) -> list[Piece]:
    """A relation such as "an apple above a cup"; empty if none is clear."""
    if not content.relations:
        return []
    i, direction, j = content.relations[int(rng.integers(len(content.relations)))]
    first, second = (content.things[content.objects[k].kind].name for k in (i, j))
    return [
        (with_article(first), (i,)),
        (f" {RELATIONS[direction]} ", ()),
        (with_article(second), (j,)),
    ]
