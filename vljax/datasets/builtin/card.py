"""Write the data card of the built-in data set, README.md in this folder."""

import statistics
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from vljax.datasets.builtin.captions import normalise_caption

_SPLITS = ("train", "validation", "test")

_TEMPLATE = """\
# Built-in clip art

{total} captioned pictures in {class_count} classes, small enough to live in the package. They let
every example and test of contrastive training, captioning, retrieval and zero-shot classification
run on real data with no download. This file is written by the builder.

## Source and licence

The Open Clip Art Library 0.18, from the Debian packages `openclipart-png` and `openclipart-svg`,
version 1:0.18+dfsg-19. Each picture kept is tagged as public domain in the metadata of its SVG
file; `licence_url` is that tag and `source` the path of the picture in the package.

## Files

- `images.array_record`: record *i* is item *i* as WebP with alpha ({megabytes:.2f} MB). A picture
  without a transparent pixel decodes as RGB, as WebP keeps no alpha channel for it.
- `items.jsonl`: one JSON object a line, in the same order. Its keys are `index`, `caption`,
  `caption_from`, `tags`, `class`, `split`, `width`, `height`, `licence`, `licence_url`, `source`
  and `sha256` (of the WebP bytes).
- `curation.toml`: decisions made by eye: exclusions, captions and classes.

## How it was built

    dpkg-deb -x openclipart-png_0.18+dfsg-19_all.deb png
    dpkg-deb -x openclipart-svg_0.18+dfsg-19_all.deb svg
    python -m vljax.datasets.builtin.build --png png --svg svg --out vljax/datasets/builtin

The same packages and library versions give the same bytes. A picture is cropped to its
visible part and scaled down to at most 128 pixels on its longest side, without padding; smaller
pictures are not enlarged. Alpha has 8 levels.

- Captions are the titles in the SVG files, without counters, file extensions, bylines and
  entities; "(B and W)" is spelled out. A title that names a whole batch of files is replaced by the
  file name.
- Titles in other languages were translated by hand, and meaningless file names were replaced by a
  description; `caption_from` is "title", "file name" or "hand".
- Tags are the keywords in lower case, without names of authors and other junk. A picture may have
  none, and a few tags are not English.
- The class is the top folder. Flags and patterns are classes of their own, and misplaced or
  unsorted pictures were moved to a class by hand.
- The split is a hash of the caption in lower case without punctuation, so each caption is in one
  split only.

## What was left out

Each file is counted under the first rule that it breaks.

{dropped}

## Counts

{classes}

Captions come from:

{origins}

## Captions

{captions}

## Intended use, limits and biases

- For tests, tutorials and small experiments. Results say nothing about a model's quality on
  photographs or natural text.
- Drawings of the early 2000s, mostly by European and North American volunteers: places, food,
  clothes and people are those of these regions. Flags show the states and regions of that time,
  some of them disputed or gone; including a flag is not a statement about them.
- Captions are short, mostly a noun or a name, and many similar pictures share one. Use the
  caption, not the item, as the unit of a retrieval test. Similar pictures with different captions
  ("muffin", "muffin (black and white)") can be in different splits.
- `vljax.recipes.Builtin` adds the class to the tags, so training on tags shows the model the class
  names: zero-shot classification then has seen class names and unseen images.
- One person excluded pictures that seemed offensive, unclear or broken; another person might
  decide differently.
- The licence is the one that the uploaders stated. Some drawings show trademarks or product
  designs.
"""


def render(
    records: Sequence[Mapping[str, object]], dropped: Mapping[str, int], image_bytes: int
) -> str:
    """Render the data card.

    Args:
      records: the lines of items.jsonl, at least one.
      dropped: how many files each rule left out.
      image_bytes: size of images.array_record in bytes.

    Returns:
      A text in Markdown.
    """
    classes = sorted({str(record["class"]) for record in records})
    return _TEMPLATE.format(
        total=len(records),
        class_count=len(classes),
        megabytes=image_bytes / 1e6,
        dropped=_dropped_table(dropped, len(records)),
        classes=_class_table(records, classes),
        origins=_table(
            ("caption from", "items"),
            sorted(Counter(str(record["caption_from"]) for record in records).items()),
        ),
        captions=_caption_table(records),
    )


def _dropped_table(dropped: Mapping[str, int], kept: int) -> str:
    rows = sorted(dropped.items(), key=lambda row: (-row[1], row[0]))
    return _table(
        ("rule", "files"), [*rows, ("kept", kept), ("all files", sum(dropped.values()) + kept)]
    )


def _class_table(records: Sequence[Mapping[str, object]], classes: Sequence[str]) -> str:
    counts = Counter((record["class"], record["split"]) for record in records)
    rows = [(name, [counts[name, split] for split in _SPLITS]) for name in classes]
    rows.append(("all", [sum(column) for column in zip(*(row[1] for row in rows), strict=True)]))
    return _table(("class", *_SPLITS, "all"), [(name, *row, sum(row)) for name, row in rows])


def _caption_table(records: Sequence[Mapping[str, object]]) -> str:
    rows = []
    for split in (*_SPLITS, "all"):
        captions = [
            normalise_caption(str(record["caption"]))
            for record in records
            if split in ("all", record["split"])
        ]
        uses = Counter(captions)
        repeated = sum(count for count in uses.values() if count > 1)
        words = [len(caption.split()) for caption in captions] or [0]
        rows.append(
            (
                split,
                len(captions),
                len(uses),
                f"{repeated / max(1, len(captions)):.1%}",
                f"{statistics.mean(words):.2f}",
                max(words),
            )
        )
    header = ("split", "items", "different captions", "items that share a caption")
    return _table((*header, "words, mean", "words, most"), rows)


def _table(header: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    lines = [header, ["---"] + ["---:"] * (len(header) - 1), *rows]
    return "\n".join("| " + " | ".join(str(cell) for cell in line) + " |" for line in lines)
