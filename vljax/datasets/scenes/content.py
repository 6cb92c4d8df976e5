"""What is in a scene: drawn in such a way that no question gives its answer away.

Names are drawn uniformly, without replacement, and put into roles at random: in the scene, asked
about, not in the scene. So a name says nothing about its role, its place or its number.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from vljax.config import UserError
from vljax.datasets.scenes.cutouts import Cutout, Thing
from vljax.datasets.scenes.layout import Cell, draw_cells

_TRIES = 1000
_REPEATING = 0.5


@dataclass(frozen=True)
class Object:
    """One object of a scene."""

    kind: int
    """Index into `Content.things`."""
    cutout: Cutout
    """Its picture."""
    cell: Cell
    """Where it stands."""


@dataclass(frozen=True)
class Content:
    """A scene before it is drawn."""

    things: tuple[Thing, ...]
    """The different things in the scene; only the first may be there more than once."""
    absent: Thing
    """A thing that is not in the scene."""
    objects: tuple[Object, ...]
    """From back to front."""
    size: int
    """Width and height of the image, pixels."""

    @property
    def repeats(self) -> int:
        """How often the first thing is there."""
        return sum(item.kind == 0 for item in self.objects)

    def is_single(self, kind: int) -> bool:
        """Whether a thing is there once."""
        return kind > 0 or self.repeats == 1


def draw(
    rng: np.random.Generator, things: Sequence[Thing], most_objects: int, size: int
) -> Content:
    """The content of a scene.

    The number of objects n is uniform in 1..`most_objects`. In half of the scenes the number of the
    first thing is uniform in 1..n, in the others it is 1; each other thing is there once.

    Raises:
      UserError: if no different enough things are found.
    """
    count = int(rng.integers(1, most_objects + 1))
    repeats = int(rng.integers(1, count + 1)) if rng.random() < _REPEATING else 1
    *present, absent = draw_things(rng, things, count - repeats + 2)
    kinds = rng.permutation([0] * repeats + list(range(1, len(present)))).tolist()
    cells = draw_cells(rng, count, size)
    objects = []
    for kind, cell in zip(kinds, cells, strict=True):
        cutouts = present[kind].cutouts
        objects.append(Object(kind, cutouts[int(rng.integers(len(cutouts)))], cell))
    return Content(tuple(present), absent, tuple(objects), size)


def draw_things(rng: np.random.Generator, things: Sequence[Thing], count: int) -> list[Thing]:
    """Things of which none may be meant by the name of another.

    Drawn anew as a whole until they fit, so that all orders are equally probable.

    Raises:
      UserError: if they never do.
    """
    for _ in range(_TRIES):
        chosen = [things[i] for i in rng.choice(len(things), count, replace=False)]
        if not any(chosen[i].may_be(chosen[j]) for i in range(count) for j in range(i)):
            return chosen
    raise UserError(
        f"data.source.objects: no {count} things are told apart by their names and tags"
    )


def repeat_odds(most_objects: int) -> list[float]:
    """Probability that the first thing is there 1, 2, ... `most_objects` times."""
    counts = range(1, most_objects + 1)
    uniform = [sum(1 / n for n in counts if n >= repeats) / most_objects for repeats in counts]
    return [_REPEATING * p + (1 - _REPEATING) * (i == 0) for i, p in enumerate(uniform)]


def colour_odds(things: Sequence[Thing]) -> dict[str, float]:
    """Probability that an object has a colour, for those that have one."""
    odds: dict[str, float] = {}
    for thing in things:
        for cutout in thing.cutouts:
            if cutout.colour is not None:
                share = 1 / (len(things) * len(thing.cutouts))
                odds[cutout.colour] = odds.get(cutout.colour, 0) + share
    return odds
