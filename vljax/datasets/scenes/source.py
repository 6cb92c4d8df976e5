"""Composed scenes as a data set: image, captions, boxes, masks, phrases, questions."""

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

# Goes up when the same recipe comes to make other scenes.
_VERSION = 1
# Neighbouring calls for one scene: its annotation, image and masks.
_RECENT = 32


@dataclass(frozen=True)
class Scenes(Source, name="scenes"):
    """Pictures of objects, put on a background at places drawn at random. docs/scenes.md tells all.

    Scene i depends on the seed, the objects and i alone, not on how many there are. Scenes of two
    splits share no object, since their objects are of different splits.
    """

    objects: Source = setting(Builtin)
    """Pictures with transparency and English captions; those that name one thing are used."""
    backgrounds: Source | None = None
    """Pictures to put objects on; None draws plain, shaded, striped, checked and mottled ones. What
    is in these pictures is not known to captions and questions."""
    examples: int = 10_000
    """How many scenes there are."""
    max_objects: int = 5
    """A scene has 1 to this many objects, 9 at most."""
    size: int = 224
    """Width and height of the images, pixels."""
    min_visible: float = 0.7
    """The share of an object that others leave visible at least."""
    leave_out: tuple[str, ...] | None = None
    """Classes of objects that are not used; None leaves out flags, patterns, maps, symbols and
    other classes whose pictures show no thing."""
    seed: int = 0
    """Of all draws."""

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
    """A scene before it is painted."""

    annotation: Annotation
    composed: compose.Composed
    background: backgrounds.Background


class SceneRecords(Records):
    """Scenes, composed when asked for."""

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
        # Now rather than in the middle of a run, should they be too much alike.
        content.draw_things(np.random.default_rng(0), self._things, config.max_objects + 1)
        self._backgrounds = None
        if config.backgrounds is not None:
            self._backgrounds = config.backgrounds.open()
            if not len(self._backgrounds):
                name = config.backgrounds.full_name
                raise UserError(f"data.source.backgrounds: {name} has no pictures")
        self._asking = questions.Asking.evenly(
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
        # Pictures are decoded anew where they are needed, which is quicker than to send them.
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
        # The name keeps scenes and the transforms of training from drawing the same numbers.
        rng = example_generator(config.seed, f"{config.full_name}#scene", 0, index)
        drawn = content.draw(rng, self._things, config.max_objects, config.size)
        asked = questions.ask(rng, drawn, self._asking)
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
    """A BMP file: as exact as a PNG, and some thirty times as quick to write."""
    import cv2

    return bytes(cv2.imencode(".bmp", pixels)[1])
