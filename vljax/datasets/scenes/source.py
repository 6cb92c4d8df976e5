"""Composed scenes as a data set: images, captions, boxes, masks, phrases and questions."""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from vljax.config import UserError, encode, setting
from vljax.data.randomness import example_generator
from vljax.data.records import Annotation, Records, Region, Source
from vljax.datasets.builtin.source import Builtin
from vljax.datasets.scenes import (
    backgrounds,
    captions,
    compose,
    content,
    cutouts,
    layout,
    questions,
)
from vljax.datasets.tuxpaint.source import Tuxpaint

# Increase it when the same recipe makes other scenes.
_VERSION = 2
# Number of scenes to cache: annotation, image and masks of a scene are read one after another.
_RECENT = 32


@dataclass(frozen=True)
class Scenes(Source, name="scenes"):
    """Composed scenes: pictures of objects at random positions on a background (docs/scenes.md).

    Scene i depends only on the seed, the objects and i. Scenes of different splits share no object,
    since their objects come from different splits.

    >>> scenes = Scenes(size=64, examples=100, max_objects=2).open()
    >>> scenes.annotation(0).captions[0]
    'a gray phone handset'
    >>> scenes.annotation(0).questions[0]
    Question(kind='exists', text='Is there a sixteenth note?', answer='no')
    """

    objects: Source = setting(Builtin)
    """Pictures with transparency and English captions; those of one named object are used."""
    backgrounds: Source | None = None
    """Pictures to put objects on; None draws plain, shaded, striped, checked and mottled ones.
    Captions and questions ignore what these pictures show."""
    examples: int = 10_000
    """Number of scenes."""
    max_objects: int = 5
    """Most objects in a scene, 1 to 9."""
    size: int = 224
    """Width and height of the images, pixels."""
    min_visible: float = 0.7
    """Smallest fraction of an object that others leave visible, 0..1."""
    leave_out: tuple[str, ...] | None = None
    """Classes to leave out; None leaves out flags, patterns, maps, symbols and other classes whose
    pictures do not show an object."""
    seed: int = 0
    """Seed of all random choices."""

    def problems(self) -> Iterator[tuple[str, str]]:
        if not 1 <= self.examples < 2**48:
            yield "examples", f"must be 1 or more, got {self.examples}"
        if not 1 <= self.max_objects <= layout.MOST_OBJECTS:
            yield "max_objects", f"must be 1 to {layout.MOST_OBJECTS}, got {self.max_objects}"
        if not 64 <= self.size <= 1024:
            yield "size", f"must be 64 to 1024, got {self.size}"
        if not 0 <= self.min_visible <= 1:
            yield "min_visible", f"must be 0 to 1, got {self.min_visible}"
        if isinstance(self.objects, Tuxpaint) and not self.objects.languages[0].startswith("en"):
            language = self.objects.languages[0]
            yield "objects", f"captions in {language!r}; begin its languages with 'en' for scenes"

    @property
    def full_name(self) -> str:
        return f"{self.type_name}:{self.objects.full_name}"

    @property
    def dataset(self) -> str:
        return f"{self.type_name}-{self.objects.dataset}"

    @property
    def split_name(self) -> str:
        return self.objects.split_name

    def open(self) -> SceneRecords:
        return SceneRecords(self)


@dataclass(frozen=True)
class _Scene:
    """A scene before its background is painted."""

    annotation: Annotation
    composed: compose.Composed
    background: backgrounds.Background


class SceneRecords(Records):
    """Scenes, composed when they are read."""

    def __init__(self, config: Scenes):
        self._config = config
        objects = config.objects.open()
        self._things = cutouts.collect(
            objects,
            config.leave_out,
            longest=int(layout.LARGEST_SIDE * config.size),
            shortest=layout.smallest_core(config.size, config.max_objects),
        )
        if len(self._things) < 2 * config.max_objects:
            raise UserError(
                f"data.source.objects: {config.objects.full_name} has pictures of "
                f"{len(self._things)} things that can be used, too few for {config.max_objects} in "
                "a scene; they need transparency and an English caption that names one thing"
            )
        # Raises now, rather than in the middle of a run, if too many things share words or tags.
        content.draw_things(np.random.default_rng(0), self._things, config.max_objects + 1)
        self._backgrounds = None
        if config.backgrounds is not None:
            self._backgrounds = config.backgrounds.open()
            if not len(self._backgrounds):
                name = config.backgrounds.full_name
                raise UserError(f"data.source.backgrounds: {name} has no pictures")
        self._rates = questions.QuestionRates.balanced(
            content.repeat_odds(config.max_objects), content.colour_odds(self._things)
        )
        self.identity = self._hash(objects)
        self._scene = functools.lru_cache(_RECENT)(self._make_scene)

    def _hash(self, objects: Records) -> str:
        settings = encode(self._config)
        known = [
            _VERSION,
            {k: v for k, v in settings.items() if k not in ("objects", "backgrounds")},
            [objects.identity, self._backgrounds and self._backgrounds.identity],
            [(t.name, t.plural, [c.colour for c in t.cutouts]) for t in self._things],
        ]
        return hashlib.sha256(json.dumps(known, sort_keys=True).encode()).hexdigest()

    def __reduce__(self) -> tuple[Any, ...]:
        # Another process decodes the pictures again, which is faster than pickling them.
        return Scenes.open, (self._config,)

    def __len__(self) -> int:
        return self._config.examples

    def annotation(self, index: int) -> Annotation:
        return self._scene(index).annotation

    def image(self, index: int) -> bytes:
        scene, size = self._scene(index), self._config.size
        if self._backgrounds is None:
            pixels = scene.background.paint(size)
        else:
            pixels = scene.background.part_of(self._backgrounds, size)
        return _bitmap(scene.composed.paint(pixels)[..., ::-1])

    def masks(self, index: int) -> bytes:
        return _bitmap(self._scene(index).composed.masks)

    def _make_scene(self, index: int) -> _Scene:
        config = self._config
        # The suffix keeps scenes and transforms from drawing the same random numbers.
        rng = example_generator(config.seed, f"{config.full_name}#scene", 0, index)
        drawn = content.draw(rng, self._things, config.max_objects, config.size)
        asked = questions.ask(rng, drawn, self._rates)
        background = backgrounds.draw(rng, np.stack([item.cutout.mean for item in drawn.objects]))
        behind = "" if self._backgrounds else f"on a {background.kind} background"
        texts, phrases = captions.write(rng, drawn, behind)
        composed = compose.compose(drawn, config.min_visible)
        regions = tuple(
            Region(drawn.things[item.kind].name, box, item.cutout.colour)
            for item, box in zip(drawn.objects, composed.boxes(), strict=True)
        )
        names = tuple(thing.name for thing in drawn.things)
        annotation = Annotation(
            texts, tags=names, regions=regions, phrases=phrases, questions=asked
        )
        return _Scene(annotation, composed, background)


def _bitmap(pixels: np.ndarray) -> bytes:
    """Encode a BMP file: lossless like PNG, and about thirty times as fast to write."""
    import cv2

    return bytes(cv2.imencode(".bmp", pixels)[1])
