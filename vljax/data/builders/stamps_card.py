"""The data card that is written beside the stamps."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from vljax.data.builders import stamps

_TEMPLATE = """\
# Tux Paint stamps

{total} pictures with alpha, photographs cut out and drawings, each with a caption in up to
{language_count} languages. This file is written by `vljax data build tuxpaint-stamps`.

## Source and licence

Debian package `{package}` (SHA-256 `{sha256}`), which holds the stamps of Tux Paint, copyright
2002-2022 by Bill Kendrick and others, under the GNU General Public License, version 2. The data set
is a work based on it: whoever passes it on does so under that licence. It is not part of vljax.

## Files

- `images.array_record`: record *i* is item *i* as WebP with alpha ({megabytes:.2f} MB).
- `items.jsonl`: one JSON object a line, in the same order. Its keys are `index`, `caption`
  (English), `captions` (by locale code), `tags`, `class`, `split`, `width`, `height`, `licence`,
  `source` and `sha256` (of the WebP bytes).

## How it was made

- A picture is cropped to what can be seen and scaled down to at most {side} pixels on its longest
  side. Where a stamp is there as PNG and SVG the PNG counts; an SVG is drawn by resvg without
  system fonts. Mirrored pictures, which have no caption, are left out.
- Captions are the lines of the stamp's text file, as written there. The class is the top folder,
  tags are the folders below it.
- The split is a hash of the caption. Stamps that share a caption in any language, directly or
  through other stamps, are in one split: no caption of any language is in two.

| left out | stamps |
| --- | ---: |
{dropped}

## Counts

| class | train | validation | test | all |
| --- | ---: | ---: | ---: | ---: |
{classes}

## Languages

Stamps with a caption, by locale code; `en` is the original, the others are translations by
volunteers, of different quality and age. Some (`ta`) are in a broken encoding.

{languages}

## Intended use, limits and biases

- For multilingual tests, tutorials and small experiments, and as objects of composed scenes; not
  for a statement about a model's quality.
- A quarter are letters, digits, coins, flags and signs, with captions to match. The choice of
  animals, food, buildings and feasts is mostly North American and European.
"""


def render(
    chosen: Sequence[stamps.Stamp],
    dropped: Mapping[str, int],
    package: str,
    sha256: str,
    size: int,
) -> str:
    """The text of the card.

    Args:
      chosen: the stamps of the data set.
      dropped: how many stamps each rule left out.
      package: file name of the Debian package.
      sha256: its digest.
      size: of the image file, bytes.
    """
    languages = stamps.locales(chosen)
    return _TEMPLATE.format(
        total=len(chosen),
        language_count=len(languages),
        package=package,
        sha256=sha256,
        megabytes=size / 1e6,
        side=stamps.LONGEST_SIDE,
        dropped=_rows(sorted(dropped.items())) or "| none | 0 |",
        classes=_classes(stamps.counts(chosen)),
        languages=", ".join(f"{code} {count}" for code, count in languages.most_common()),
    )


def _classes(table: Mapping[str, Counter[str]]) -> str:
    names = sorted({name for column in table.values() for name in column})
    numbers = {name: [column[name] for column in table.values()] for name in names}
    numbers["all"] = [column.total() for column in table.values()]
    return _rows((name, *row, sum(row)) for name, row in numbers.items())


def _rows(rows: Iterable[Sequence[object]]) -> str:
    return "\n".join("| " + " | ".join(map(str, row)) + " |" for row in rows)
