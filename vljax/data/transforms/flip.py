"""Mirrored images."""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from vljax.data.transforms.base import Example, Transform, check_probability
from vljax.data.transforms.geometry import mirror_regions


@dataclass(frozen=True)
class Flip(Transform, name="flip"):
    """Mirror images left to right, unless the text names a side.

    If no text was chosen yet, all captions and tags of the record count as text. So do questions
    that were chosen before.

    >>> image = np.array([[[1, 1, 1], [2, 2, 2]]], np.uint8)
    >>> flip, rng = Flip(probability=1.0), np.random.default_rng(0)
    >>> flip({"image": image, "text": "a cat"}, rng)["image"][0, :, 0].tolist()
    [2, 1]
    >>> flip({"image": image, "text": "the cat on the left"}, rng)["image"][0, :, 0].tolist()
    [1, 2]
    """

    probability: float = 0.5
    """Probability of mirroring."""
    unless: tuple[str, ...] = ("left", "right")
    """Words that name a side, upper or lower case; add those of other languages. If empty, all
    images may be mirrored."""

    moves_pixels = True

    def heeds(self) -> tuple[str, ...]:
        return ("question",) if self.unless else ()

    def problems(self) -> Iterator[tuple[str, str]]:
        yield from check_probability("probability", self.probability)
        if not all(word.strip() for word in self.unless):
            yield "unless", "a blank word is in every text"

    def __call__(self, example: Example, rng: np.random.Generator) -> Example:
        if rng.random() >= self.probability or self._names_a_side(example):
            return example
        image = np.ascontiguousarray(example["image"][:, ::-1])
        return {**example, "image": image, **mirror_regions(example, *image.shape[:2])}

    def _names_a_side(self, example: Example) -> bool:
        if not self.unless:
            return False
        texts: tuple[str, ...] = ()
        if isinstance(example.get("text"), str):
            texts = (example["text"],)
        elif "record" in example:
            texts = (*example["record"].captions, *example["record"].tags)
        texts += _chosen_questions(example)
        return any(_pattern(self.unless).search(text) for text in texts)


def _chosen_questions(example: Example) -> tuple[str, ...]:
    """The questions that were chosen, with their answers."""
    asked = example.get("question", ())
    if isinstance(asked, str):
        return asked, *(answer for answer, _ in example["answers"])
    if isinstance(asked, np.ndarray):  # tokenized
        questions = example["record"].questions
        return tuple(text for question in questions for text in (question.text, question.answer))
    return *asked, *(answer for pairs in example.get("answers", ()) for answer, _ in pairs)


@functools.cache
def _pattern(words: tuple[str, ...]) -> re.Pattern[str]:
    # A word ends where a letter does not follow: "left-hand" names a side, "leftover" does not.
    either = "|".join(re.escape(word) for word in words)
    return re.compile(rf"(?<![^\W\d_])({either})(?![^\W\d_])", re.IGNORECASE)
