"""Thumbnails of examples with what is written about them, as markup."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from vljax.data.image_header import read_header
from vljax.data.inspection.inspect import Inspection
from vljax.data.inspection.pixels import thumbnail
from vljax.data.source_base import Annotation, ExampleError
from vljax.report.text import in_bytes
from vljax.web import Markup, element, picture

_LONGEST = 192  # pixels
_CAPTIONS, _CHARACTERS = 5, 400
_GROUPS, _IN_GROUP = 30, 8


class Sheet:
    """Shows examples of one inspected data set.

    Args:
      inspection: of the data set.
      max_pixels: images with more are not shown.
    """

    def __init__(self, inspection: Inspection, max_pixels: int):
        self._records, self._max_pixels = inspection.records, max_pixels
        self._examples = inspection.examples

    def sample(self, count: int, seed: int) -> Markup:
        """Usable examples drawn by a seed, in the order of the data set."""
        usable = self._examples["index"][self._examples["kind"] == 0]
        drawn = np.random.default_rng(seed).permutation(usable)[:count]
        return element("div", *(self.figure(i) for i in np.sort(drawn).tolist()), class_="pictures")

    def groups(self, groups: Sequence[dict[str, Any]]) -> list[Markup]:
        """Images of each group side by side; of many, the first."""
        rows = []
        for group in groups[:_GROUPS]:
            figures = [self.figure(i) for i in group["examples"][:_IN_GROUP]]
            if group["size"] > _IN_GROUP:
                more = f"and {group['size'] - _IN_GROUP:,} more"
                figures.append(element("figure", element("div", more, class_="missing")))
            rows.append(element("div", *figures, class_="row"))
        if len(groups) > _GROUPS:
            rows.append(element("p", f"The {_GROUPS} largest groups are shown.", class_="soft"))
        return rows

    def figure(self, index: int, reason: str | None = None) -> Markup:
        """An example: its image or why there is none, captions, and what is known of the file."""
        about: Annotation | None = None
        try:
            about = self._records.annotation(index)
            content = self._records.image(index)
            header = read_header(content)
            pixels = thumbnail(content, header, _LONGEST, self._max_pixels)
        except ExampleError as error:
            shown = element("div", "no picture" if reason else str(error), class_="missing")
            facts = f"example {index}"
        else:
            first = about.first_caption[:_CHARACTERS]
            shown = picture(pixels, first or f"example {index}")
            size = f"{header.width} x {header.height} {header.format}, {in_bytes(len(content))}"
            facts = f"example {index}: {size}"
        captions = self._captions(about) if about else []
        notes = [element("span", reason, class_="warn")] if reason else []
        return element(
            "figure",
            shown,
            element("figcaption", *captions, *notes, element("div", facts, class_="soft")),
        )

    def _captions(self, about: Annotation) -> list[Markup]:
        written = [text for text in about.captions if text.strip()]
        lines = [element("div", _short(text), dir="auto") for text in written[:_CAPTIONS]]
        if len(written) > _CAPTIONS:
            lines.append(element("div", f"and {len(written) - _CAPTIONS} more", class_="soft"))
        if about.label is not None:
            names = self._records.class_names
            name = names[about.label] if about.label < len(names) else str(about.label)
            lines.append(element("div", f"class: {name}", class_="soft"))
        return lines


def _short(text: str) -> str:
    return text if len(text) <= _CHARACTERS else f"{text[:_CHARACTERS]} …"
