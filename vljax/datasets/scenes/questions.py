"""Ask questions about a scene; the text of a question does not tell its answer.

Whether a question is asked depends on cells, counts and random draws, never on names. If some
answers are more frequent in scenes than others, questions with these answers are asked less often.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from vljax.data.records import Question
from vljax.datasets.scenes import layout
from vljax.datasets.scenes.captions import RELATIONS
from vljax.datasets.scenes.content import Content
from vljax.datasets.scenes.names import with_article

# Colours with a smaller share of the objects are not asked about: all answers are made as frequent
# as the rarest, so a very rare colour would leave hardly any questions.
LEAST_COLOUR_SHARE = 0.01

OPPOSITE = {"left": "right", "right": "left", "above": "below", "below": "above"}
POSITIONS = {
    "left": "the leftmost object",
    "right": "the rightmost object",
    "above": "the topmost object",
    "below": "the bottommost object",
}
ONLY_OBJECT = "the object"


@dataclass(frozen=True)
class QuestionRates:
    """How often questions are asked, by their answer."""

    repeats: tuple[float, ...]
    """Probability of asking for the count of the first thing, if it occurs 1, 2, ... times."""
    colours: dict[str, float]
    """Probability of asking for the colour of an object, by that colour."""

    @classmethod
    def balanced(cls, repeat_odds: list[float], colour_odds: dict[str, float]) -> QuestionRates:
        """Rates that make all answers to a kind of question equally frequent."""
        asked = {name: p for name, p in colour_odds.items() if p >= LEAST_COLOUR_SHARE}
        rarest = min(asked.values(), default=1.0)
        return cls(
            repeats=tuple(min(repeat_odds) / p for p in repeat_odds),
            colours={name: rarest / p for name, p in sorted(asked.items())},
        )


def ask(rng: np.random.Generator, content: Content, rates: QuestionRates) -> tuple[Question, ...]:
    """Ask questions about a scene, at most one of each kind."""
    found = (kind(rng, content, rates) for kind in _KINDS)
    return tuple(question for question in found if question is not None)


def _exists(rng: np.random.Generator, content: Content, rates: QuestionRates) -> Question | None:
    things = content.things
    present = things[int(rng.integers(len(things)))]
    answer = _yes_or_no(rng)
    thing = present if answer == "yes" else content.absent
    return Question("exists", f"Is there {with_article(thing.name)}?", answer)


def _count(rng: np.random.Generator, content: Content, rates: QuestionRates) -> Question | None:
    if rng.random() >= rates.repeats[content.repeats - 1]:
        return None
    text = f"How many {content.things[0].plural} are there?"
    return Question("count", text, str(content.repeats))


def _total(rng: np.random.Generator, content: Content, rates: QuestionRates) -> Question | None:
    return Question("total", "How many objects are there?", str(len(content.objects)))


def _what(rng: np.random.Generator, content: Content, rates: QuestionRates) -> Question | None:
    i, words = _by_position(rng, content)
    if i is None:
        return None
    return Question("what", f"What is {words}?", content.things[content.objects[i].kind].name)


def _what_beside(
    rng: np.random.Generator, content: Content, rates: QuestionRates
) -> Question | None:
    """Ask for the only thing in a direction from another; all others are clearly not there."""
    found = [
        (direction, i, beside[0])
        for direction in layout.DIRECTIONS
        for i in content.singles
        if (beside := _alone(content, direction, i))
    ]
    if not found:
        return None
    direction, i, j = found[int(rng.integers(len(found)))]
    text = f"What is {RELATIONS[direction]} the {_name(content, i)}?"
    return Question("what_beside", text, _name(content, j))


def _colour(rng: np.random.Generator, content: Content, rates: QuestionRates) -> Question | None:
    found = _coloured(rng, content, rates)
    if found is None:
        return None
    words, colour = found
    return Question("colour", f"What colour is {words}?", colour)


def _is_colour(rng: np.random.Generator, content: Content, rates: QuestionRates) -> Question | None:
    found = _coloured(rng, content, rates)
    if found is None:
        return None
    words, colour = found
    answer = _yes_or_no(rng)
    others = [name for name in rates.colours if name != colour]
    if answer == "no":
        if not others:
            return None
        colour = others[int(rng.integers(len(others)))]
    return Question("is_colour", f"Is {words} {colour}?", answer)


def _side(rng: np.random.Generator, content: Content, rates: QuestionRates) -> Question | None:
    found = _related(rng, content)
    if found is None:
        return None
    i, direction, j = found
    across = direction in ("left", "right")
    sides = "to the left or to the right of" if across else "above or below"
    text = f"Is the {_name(content, i)} {sides} the {_name(content, j)}?"
    return Question("side", text, direction)


def _is_beside(rng: np.random.Generator, content: Content, rates: QuestionRates) -> Question | None:
    found = _related(rng, content)
    if found is None:
        return None
    i, direction, j = found
    answer = _yes_or_no(rng)
    words = RELATIONS[direction if answer == "yes" else OPPOSITE[direction]]
    text = f"Is the {_name(content, i)} {words} the {_name(content, j)}?"
    return Question("is_beside", text, answer)


def _direction(rng: np.random.Generator, content: Content, rates: QuestionRates) -> Question | None:
    """Ask about two unhidden things that are mainly beside or mainly above each other."""
    cells = [item.cell for item in content.objects]
    free = [not any(c.overlaps(o) for o in cells if o is not c) for c in cells]
    found = [
        (i, direction, j)
        for i, direction, j in content.relations
        if free[i] and free[j] and layout.mainly(direction, cells[i], cells[j])
    ]
    if not found:
        return None
    i, direction, j = found[int(rng.integers(len(found)))]
    text = f"Where is the {_name(content, i)}, seen from the {_name(content, j)}?"
    return Question("direction", text, direction)


_KINDS: tuple[Callable[[np.random.Generator, Content, QuestionRates], Question | None], ...] = (
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


def _yes_or_no(rng: np.random.Generator) -> str:
    return "yes" if rng.random() < 0.5 else "no"


def _name(content: Content, i: int) -> str:
    return content.things[content.objects[i].kind].name


def _by_position(rng: np.random.Generator, content: Content) -> tuple[int | None, str]:
    """An object that its position alone identifies, and the words for it."""
    if len(content.objects) == 1:
        return 0, ONLY_OBJECT
    if not content.outermost:
        return None, ""
    i, direction = content.outermost[int(rng.integers(len(content.outermost)))]
    return i, POSITIONS[direction]


def _coloured(
    rng: np.random.Generator, content: Content, rates: QuestionRates
) -> tuple[str, str] | None:
    """The words for an object identified by its position, and its colour; colours are balanced."""
    i, words = _by_position(rng, content)
    colour = None if i is None else content.objects[i].cutout.colour
    if colour is None or rng.random() >= rates.colours.get(colour, 0.0):
        return None
    return words, colour


def _alone(content: Content, direction: str, i: int) -> list[int]:
    """The only object that lies in a direction from object i, in a list; empty if not unique."""
    cells = [item.cell for item in content.objects]
    there = [
        j for j in range(len(cells)) if layout.lies(direction, cells[j], cells[i], content.size)
    ]
    rest = [j for j in range(len(cells)) if j not in there and j != i]
    clear = all(layout.clearly_not(direction, cells[j], cells[i]) for j in rest)
    return there if len(there) == 1 and clear else []


def _related(rng: np.random.Generator, content: Content) -> tuple[int, str, int] | None:
    found = content.relations
    return found[int(rng.integers(len(found)))] if found else None
