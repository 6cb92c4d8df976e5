"""Questions about a scene, whose text alone says nothing about the answer.

Whether a question is asked depends on cells, counts and draws, never on names. Where answers are
not equally frequent in scenes, the frequent ones are asked about less often.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from vljax.data.records import Question
from vljax.datasets.scenes import layout
from vljax.datasets.scenes.captions import RELATIONS
from vljax.datasets.scenes.content import Content
from vljax.datasets.scenes.names import with_article

# Colours of fewer objects than this share are not asked about: all others would be as rare.
LEAST_COLOUR_SHARE = 0.01

OPPOSITE = {"left": "right", "right": "left", "above": "below", "below": "above"}
PLACES = {
    "left": "the leftmost object",
    "right": "the rightmost object",
    "above": "the topmost object",
    "below": "the bottommost object",
}
SOLE = "the object"


@dataclass(frozen=True)
class Asking:
    """What scenes are asked about."""

    repeats: tuple[float, ...]
    """Probability of asking how often the first thing is there, by that number from 1 on."""
    colours: dict[str, float]
    """Probability of asking about an object of a colour."""

    @classmethod
    def evenly(cls, repeat_odds: list[float], colour_odds: dict[str, float]) -> Asking:
        """Such that all answers that are asked for are equally frequent."""
        asked = {name: p for name, p in colour_odds.items() if p >= LEAST_COLOUR_SHARE}
        rarest = min(asked.values(), default=1.0)
        return cls(
            repeats=tuple(min(repeat_odds) / p for p in repeat_odds),
            colours={name: rarest / p for name, p in sorted(asked.items())},
        )


def ask(rng: np.random.Generator, content: Content, asking: Asking) -> tuple[Question, ...]:
    """The questions of a scene; at most one of each kind."""
    found = (kind(rng, content, asking) for kind in _KINDS)
    return tuple(question for question in found if question is not None)


def _exists(rng: np.random.Generator, content: Content, asking: Asking) -> Question | None:
    things = content.things
    present = things[int(rng.integers(len(things)))]
    answer = _coin(rng)
    thing = present if answer == "yes" else content.absent
    return Question("exists", f"Is there {with_article(thing.name)}?", answer)


def _count(rng: np.random.Generator, content: Content, asking: Asking) -> Question | None:
    if rng.random() >= asking.repeats[content.repeats - 1]:
        return None
    text = f"How many {content.things[0].plural} are there?"
    return Question("count", text, str(content.repeats))


def _total(rng: np.random.Generator, content: Content, asking: Asking) -> Question | None:
    return Question("total", "How many objects are there?", str(len(content.objects)))


def _what(rng: np.random.Generator, content: Content, asking: Asking) -> Question | None:
    i, place = _pointed_at(rng, content)
    if i is None:
        return None
    return Question("what", f"What is {place}?", content.things[content.objects[i].kind].name)


def _what_beside(rng: np.random.Generator, content: Content, asking: Asking) -> Question | None:
    """Of what alone lies in a direction from another thing, the rest clearly not."""
    found = [
        (direction, i, beside[0])
        for direction in layout.DIRECTIONS
        for i in _singles(content)
        if (beside := _alone(content, direction, i))
    ]
    if not found:
        return None
    direction, i, j = found[int(rng.integers(len(found)))]
    text = f"What is {RELATIONS[direction]} the {_name(content, i)}?"
    return Question("what_beside", text, _name(content, j))


def _colour(rng: np.random.Generator, content: Content, asking: Asking) -> Question | None:
    found = _evenly_coloured(rng, content, asking)
    if found is None:
        return None
    place, colour = found
    return Question("colour", f"What colour is {place}?", colour)


def _is_colour(rng: np.random.Generator, content: Content, asking: Asking) -> Question | None:
    found = _evenly_coloured(rng, content, asking)
    if found is None:
        return None
    place, colour = found
    answer = _coin(rng)
    others = [name for name in asking.colours if name != colour]
    if answer == "no":
        if not others:
            return None
        colour = others[int(rng.integers(len(others)))]
    return Question("is_colour", f"Is {place} {colour}?", answer)


def _side(rng: np.random.Generator, content: Content, asking: Asking) -> Question | None:
    found = _related(rng, content)
    if found is None:
        return None
    i, direction, j = found
    across = direction in ("left", "right")
    sides = "to the left or to the right of" if across else "above or below"
    text = f"Is the {_name(content, i)} {sides} the {_name(content, j)}?"
    return Question("side", text, direction)


def _is_beside(rng: np.random.Generator, content: Content, asking: Asking) -> Question | None:
    found = _related(rng, content)
    if found is None:
        return None
    i, direction, j = found
    answer = _coin(rng)
    said = RELATIONS[direction if answer == "yes" else OPPOSITE[direction]]
    text = f"Is the {_name(content, i)} {said} the {_name(content, j)}?"
    return Question("is_beside", text, answer)


def _direction(rng: np.random.Generator, content: Content, asking: Asking) -> Question | None:
    """Of two things that nothing hides, mainly beside or mainly above each other."""
    cells = [item.cell for item in content.objects]
    free = [not any(c.overlaps(o) for o in cells if o is not c) for c in cells]
    found = [
        (i, direction, j)
        for i, direction, j in _all_related(content)
        if free[i] and free[j] and layout.mainly(direction, cells[i], cells[j])
    ]
    if not found:
        return None
    i, direction, j = found[int(rng.integers(len(found)))]
    text = f"Where is the {_name(content, i)}, seen from the {_name(content, j)}?"
    return Question("direction", text, direction)


_KINDS: tuple[Callable[[np.random.Generator, Content, Asking], Question | None], ...] = (
    _exists,
    _count,
    _total,
    _what,
    _what_beside,
    _colour,
    _is_colour,
    _side,
    _is_beside,
    _direction,
)


def _coin(rng: np.random.Generator) -> str:
    return "yes" if rng.random() < 0.5 else "no"


def _name(content: Content, i: int) -> str:
    return content.things[content.objects[i].kind].name


def _singles(content: Content) -> list[int]:
    return [i for i, item in enumerate(content.objects) if content.is_single(item.kind)]


def _pointed_at(rng: np.random.Generator, content: Content) -> tuple[int | None, str]:
    """An object that is meant by its place alone, and the words for it."""
    if len(content.objects) == 1:
        return 0, SOLE
    cells = [item.cell for item in content.objects]
    found = [(layout.outermost(d, cells, content.size), PLACES[d]) for d in layout.DIRECTIONS]
    found = [(i, place) for i, place in found if i is not None]
    return found[int(rng.integers(len(found)))] if found else (None, "")


def _evenly_coloured(
    rng: np.random.Generator, content: Content, asking: Asking
) -> tuple[str, str] | None:
    """The words for an object meant by its place, and its colour, all colours alike."""
    i, place = _pointed_at(rng, content)
    colour = None if i is None else content.objects[i].cutout.colour
    if colour is None or rng.random() >= asking.colours.get(colour, 0.0):
        return None
    return place, colour


def _alone(content: Content, direction: str, i: int) -> list[int]:
    """The one object that lies in a direction from object i, or nothing."""
    cells = [item.cell for item in content.objects]
    there = [
        j for j in range(len(cells)) if layout.lies(direction, cells[j], cells[i], content.size)
    ]
    rest = [j for j in range(len(cells)) if j not in there and j != i]
    clear = all(layout.clearly_not(direction, cells[j], cells[i]) for j in rest)
    return there if len(there) == 1 and clear else []


def _all_related(content: Content) -> Iterator[tuple[int, str, int]]:
    singles = _singles(content)
    for i in singles:
        for j in singles:
            for direction in layout.DIRECTIONS:
                if i != j and layout.lies(
                    direction, content.objects[i].cell, content.objects[j].cell, content.size
                ):
                    yield i, direction, j


def _related(rng: np.random.Generator, content: Content) -> tuple[int, str, int] | None:
    found = list(_all_related(content))
    return found[int(rng.integers(len(found)))] if found else None
