"""Draw the content of a scene, such that the text of a question does not tell its answer.

Names are drawn uniformly without replacement and get random roles: in the scene, asked about, not
in the scene. So a name is independent of its role, its position and its count.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from vljax.config import UserError
from vljax.datasets.scenes import layout
from vljax.datasets.scenes.cutouts import Cutout, Thing
from vljax.datasets.scenes.layout import Cell

_TRIES = 1000
_REPEAT_PROBABILITY = 0.5


@dataclass(frozen=True)
class Object:
    """One object of a scene."""

    kind: int
    """Index into `Content.things`."""
    cutout: Cutout
    """Its picture."""
    cell: Cell
    """The square that it stands in."""


@dataclass(frozen=True)
class Content:
    """A scene before it is drawn."""

    things: tuple[Thing, ...]
    """The different things in the scene; only the first may occur more than once."""
    absent: Thing
    """A thing that is not in the scene."""
    objects: tuple[Object, ...]
    """The objects from back to front."""
    size: int
    """Width and height of the image, pixels."""

    @property
    def repeats(self) -> int:
        """How often the first thing occurs."""
        return sum(item.kind == 0 for item in self.objects)

    def is_single(self, kind: int) -> bool:
        """Whether a thing occurs once."""
        return kind > 0 or self.repeats == 1

    @functools.cached_property
    def singles(self) -> tuple[int, ...]:
        """Indices of the objects whose thing occurs once, so that its name means one object."""
        return tuple(i for i, item in enumerate(self.objects) if self.is_single(item.kind))

    @functools.cached_property
    def outermost(self) -> tuple[tuple[int, str], ...]:
        """(i, direction) where object i clearly lies in a direction from all others."""
        cells = [item.cell for item in self.objects]
        found = [(layout.outermost(d, cells, self.size), d) for d in layout.DIRECTIONS]
        return tuple((i, direction) for i, direction in found if i is not None)

    @functools.cached_property
    def relations(self) -> tuple[tuple[int, str, int], ...]:
        """(i, direction, j) where object i clearly lies in a direction from j; both `singles`."""
        cells = [item.cell for item in self.objects]
        return tuple(
            (i, direction, j)
            for i in self.singles
            for j in self.singles
            for direction in layout.DIRECTIONS
            if i != j and layout.lies(direction, cells[i], cells[j], self.size)
        )


def draw(
    rng: np.random.Generator, things: Sequence[Thing], most_objects: int, size: int
) -> Content:
    """Draw the content of a scene.

    The number of objects n is uniform in 1..`most_objects`. In half of the scenes the first thing
    occurs 1..n times, uniformly, in the others once; each other thing occurs once.

    Args:
      rng: source of randomness.
      things: the things to choose from.
      most_objects: most objects in a scene.
      size: width and height of the image, pixels.

    Raises:
      UserError: if not enough things can be told apart.
    """
    count = int(rng.integers(1, most_objects + 1))
    repeats = int(rng.integers(1, count + 1)) if rng.random() < _REPEAT_PROBABILITY else 1
    *present, absent = draw_things(rng, things, count - repeats + 2)
    kinds = rng.permutation([0] * repeats + list(range(1, len(present)))).tolist()
    cells = layout.draw_cells(rng, count, size)
    objects = []
    for kind, cell in zip(kinds, cells, strict=True):
        cutouts = present[kind].cutouts
        objects.append(Object(kind, cutouts[int(rng.integers(len(cutouts)))], cell))
    return Content(tuple(present), absent, tuple(objects), size)


def draw_things(rng: np.random.Generator, things: Sequence[Thing], count: int) -> list[Thing]:
    """Draw things, such that no name fits two of them.

    Raises:
      UserError: if no such things are found.
    """
    # If two things clash, all are drawn again, so that all orders stay equally probable.
    for _ in range(_TRIES):
        chosen = [things[i] for i in rng.choice(len(things), count, replace=False)]
        if not any(chosen[i].may_be(chosen[j]) for i in range(count) for j in range(i)):
            return chosen
    raise UserError(
        f"data.source.objects: no {count} things are told apart by their names and tags"
    )


def repeat_odds(most_objects: int) -> list[float]:
    """Probability that the first thing occurs 1, 2, ... `most_objects` times."""
    counts = range(1, most_objects + 1)
    uniform = [sum(1 / n for n in counts if n >= repeats) / most_objects for repeats in counts]
    once = 1 - _REPEAT_PROBABILITY
    return [_REPEAT_PROBABILITY * p + once * (i == 0) for i, p in enumerate(uniform)]


def colour_odds(things: Sequence[Thing]) -> dict[str, float]:
    """Probability of each colour of an object, for objects that have one."""
    odds: dict[str, float] = {}
    for thing in things:
        for cutout in thing.cutouts:
            if cutout.colour is not None:
                share = 1 / (len(things) * len(thing.cutouts))
                odds[cutout.colour] = odds.get(cutout.colour, 0) + share
    return odds
