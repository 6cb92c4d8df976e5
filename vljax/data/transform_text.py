"""The text that goes with an image."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np

from vljax.data.source_base import ExampleError
from vljax.data.transform_base import Example, Transform, check_probability


@dataclass(frozen=True)
class ChooseText(Transform, name="choose_text"):
    """Makes `text` from captions and tags; blank captions are never chosen.

    Attributes:
      choice: "first" caption, for evaluation, or a "random" one.
      tags: how often a random part of the tags stands in place of the caption.
      caption_and_tags: how often a random part of the tags follows the caption.
      separator: what stands between tags.
    """

    choice: Literal["first", "random"] = "first"
    tags: float = 0.0
    caption_and_tags: float = 0.0
    separator: str = ", "

    provides = "text"

    def problems(self) -> Iterator[tuple[str, str]]:
        yield from check_probability("tags", self.tags)
        yield from check_probability("caption_and_tags", self.caption_and_tags)
        if self.tags + self.caption_and_tags > 1:
            yield "caption_and_tags", "must not exceed 1 together with tags"

    def __call__(self, example: Example, rng: np.random.Generator) -> Example:
        record = example["record"]
        captions = [caption for caption in record.captions if caption.strip()]
        if not captions:
            raise ExampleError("no caption", kind="no_caption")
        position = int(rng.integers(len(captions))) if self.choice == "random" else 0
        text = captions[position]
        draw = rng.random()
        tags = [tag for tag in record.tags if tag.strip()]
        if tags and draw < self.tags:
            text = self._some(tags, rng)
        elif tags and draw < self.tags + self.caption_and_tags:
            text += self.separator + self._some(tags, rng)
        return {**example, "text": text}

    def _some(self, tags: list[str], rng: np.random.Generator) -> str:
        count = int(rng.integers(1, len(tags) + 1))
        return self.separator.join(tags[i] for i in rng.permutation(len(tags))[:count])
