"""Hide a part of the examples, to see what a model learns without it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from vljax.config import UserError
from vljax.data.transforms.base import Example, Transform

HIDDEN_TEXT = "?"
"""Takes the place of texts."""


@dataclass(frozen=True)
class Hide(Transform, name="hide"):
    """Replace an entry of every example by the same thing: images by black ones, texts by "?".

    A model trained without the image, or without the question, shows how far the other one goes.

    >>> Hide("question")({"question": ("How many cats?",)}, np.random.default_rng(0))
    {'question': ('?',)}
    """

    entry: str
    """The entry to hide: an image, a text or texts."""

    def reads(self) -> tuple[str, ...]:
        return (self.entry,)

    def makes(self) -> tuple[str, ...]:
        return (self.entry,)

    def __call__(self, example: Example, rng: np.random.Generator) -> Example:
        value = example[self.entry]
        hidden: np.ndarray | str | tuple[str, ...]
        if isinstance(value, np.ndarray):
            hidden = np.zeros_like(value)
        elif isinstance(value, str):
            hidden = HIDDEN_TEXT
        elif isinstance(value, tuple) and all(isinstance(text, str) for text in value):
            hidden = (HIDDEN_TEXT,) * len(value)
        else:
            raise UserError(f"hide: {self.entry!r} is neither an image nor a text")
        return {**example, self.entry: hidden}
