"""Captions of a scene, with the phrases in them that speak of objects."""

from __future__ import annotations

import numpy as np

from vljax.data.records import Phrase
from vljax.datasets.scenes.content import Content
from vljax.datasets.scenes.layout import DIRECTIONS, lies
from vljax.datasets.scenes.names import NUMBERS, colour_words, with_article

RELATIONS = {
    "left": "to the left of",
    "right": "to the right of",
    "above": "above",
    "below": "below",
}


def write(
    rng: np.random.Generator, content: Content, background: str
) -> tuple[tuple[str, ...], tuple[Phrase, ...]]:
    """Captions and phrases.

    The first caption names all objects, the second adds colours and the background, a third says
    how two objects stand to each other, where that is clear.
    """
    order = rng.permutation(len(content.things)).tolist()
    parts = [_all_of(content, kind, coloured=False) for kind in order]
    coloured = [_all_of(content, kind, coloured=True) for kind in order]
    texts = [_join(parts), _join(coloured) + ([(f" {background}", ())] if background else [])]
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


Piece = tuple[str, tuple[int, ...]]


def _all_of(content: Content, kind: int, *, coloured: bool) -> Piece:
    """ "two red apples", and which objects they are."""
    thing = content.things[kind]
    regions = tuple(i for i, item in enumerate(content.objects) if item.kind == kind)
    colours = {content.objects[i].cutout.colour for i in regions}
    colour = next(iter(colours)) if len(colours) == 1 else None
    shown = coloured and colour is not None and not colour_words(thing.name)
    adjective = f"{colour} " if shown else ""
    if len(regions) == 1:
        return with_article(adjective + thing.name), regions
    return f"{NUMBERS[len(regions)]} {adjective}{thing.plural}", regions


def _join(parts: list[Piece]) -> list[Piece]:
    """ "a, b and c"."""
    joined: list[Piece] = []
    for i, part in enumerate(parts):
        if i:
            joined.append((" and " if i == len(parts) - 1 else ", ", ()))
        joined.append(part)
    return joined


def _relation(rng: np.random.Generator, content: Content) -> list[Piece]:
    """ "an apple above a cup", of two things that are there once."""
    found = [
        (i, direction, j)
        for i, item in enumerate(content.objects)
        for j, other in enumerate(content.objects)
        for direction in DIRECTIONS
        if content.is_single(item.kind)
        and content.is_single(other.kind)
        and i != j
        and lies(direction, item.cell, other.cell, content.size)
    ]
    if not found:
        return []
    i, direction, j = found[int(rng.integers(len(found)))]
    first, second = (content.things[content.objects[k].kind].name for k in (i, j))
    return [
        (with_article(first), (i,)),
        (f" {RELATIONS[direction]} ", ()),
        (with_article(second), (j,)),
    ]
