"""Turn the files of the Tux Paint package into stamps with captions and splits, and a data card."""

from __future__ import annotations

import hashlib
import io
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from PIL import Image, UnidentifiedImageError

from vljax.config import UserError
from vljax.datasets.builtin.captions import normalise_caption, split_of
from vljax.datasets.builtin.pictures import RejectedError, crop_and_scale

FOLDER = "usr/share/tuxpaint/stamps"
LONGEST_SIDE = 256
WEBP_QUALITY = 90

_MAX_PIXELS = 16_000_000
_TRANSLATION = re.compile(r"([A-Za-z_]+(?:@[a-z]+)?)\.utf8=(.*)")
_CLASSES = {"naturalforces": "natural forces"}

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Stamp:
    """One picture of the data set."""

    source: str
    """Path of the picture below the folder of stamps."""
    captions: Mapping[str, str]
    """Locale code -> caption, "en" first."""
    split: str
    """train, validation or test."""
    size: tuple[int, int]
    """Width and height, pixels."""
    webp: bytes
    """The picture with alpha."""

    def item(self, index: int) -> dict[str, Any]:
        """The stamp's line in items.jsonl; `index` is its index in the data set."""
        top, *folders = self.source.split("/")[:-1]
        return {
            "index": index,
            "caption": self.captions["en"],
            "captions": dict(self.captions),
            "tags": folders,
            "class": _CLASSES.get(top, top),
            "split": self.split,
            "width": self.size[0],
            "height": self.size[1],
            "licence": "GPL-2",
            "source": self.source,
            "sha256": hashlib.sha256(self.webp).hexdigest(),
        }


def wanted(name: str) -> bool:
    """Whether a file is a picture, other than a mirrored copy, or the captions of a picture."""
    stem, _, ending = name.rpartition(".")
    return ending in ("png", "svg", "txt") and not stem.endswith(("_mirror", "_flip"))


def read_captions(content: bytes) -> dict[str, str]:
    """Parse the text file of a stamp: locale code -> caption, without empty captions.

    The first line is English, the others are `LOCALE.utf8=CAPTION`.
    """
    first, *others = content.decode("utf-8", "replace").splitlines() or [""]
    captions = {"en": first.strip()}
    for match in map(_TRANSLATION.fullmatch, others):
        if match and match[2].strip():
            captions.setdefault(match[1], match[2].strip())
    return captions if captions["en"] else {}


def select(
    files: Mapping[str, bytes], rasterise: Callable[[bytes], bytes], progress: Progress
) -> tuple[list[Stamp], Counter[str]]:
    """Make the stamps, in the order of their paths, and count how many each rule left out.

    If a stamp is available as PNG and SVG, the PNG is used.

    Args:
      files: path below the folder of stamps -> content.
      rasterise: converts an SVG file to a PNG file.
      progress: called with the number of stamps done and the total.
    """
    captions = {
        name[:-4]: read_captions(content)
        for name, content in sorted(files.items())
        if name.endswith(".txt")
    }
    splits = assign_splits(captions)
    stamps: list[Stamp] = []
    dropped: Counter[str] = Counter()
    for count, (stem, texts) in enumerate(captions.items(), 1):
        try:
            name, picture = _picture(files, stem, rasterise)
            if not texts:
                raise RejectedError("no caption")
            picture = crop_and_scale(picture, LONGEST_SIDE)
            stamps.append(Stamp(name, texts, splits[stem], picture.size, _encode(picture)))
        except RejectedError as error:
            dropped[str(error)] += 1
        progress(count, len(captions))
    return stamps, dropped


def assign_splits(captions: Mapping[str, Mapping[str, str]]) -> dict[str, str]:
    """Assign stamps to splits such that no caption in any language is in two splits.

    Stamps that share a caption in some language, directly or through others, form a group. The
    split of a group is a hash of its alphabetically first English caption.
    """
    group: dict[str, str] = {}

    def find(name: str) -> str:
        while group.setdefault(name, name) != name:
            group[name] = name = group[group[name]]
        return name

    for stem, texts in captions.items():
        for locale, text in texts.items():
            group[find(f"stamp {stem}")] = find(f"{locale} {normalise_caption(text) or text}")
    members = defaultdict(list)
    for stem in captions:
        members[find(f"stamp {stem}")].append(stem)
    return {
        stem: split_of(min(captions[other].get("en", other) for other in stems))
        for stems in members.values()
        for stem in stems
    }


def svg_rasteriser() -> Callable[[bytes], bytes]:
    """A function that converts SVG files to PNG files; system fonts have no influence.

    Raises:
      UserError: if the package that draws SVG is not installed.
    """
    try:
        from resvg_py import svg_to_bytes
    except ImportError as error:
        raise UserError(
            "SVG pictures need a package that is not installed: pip install 'vljax[stamps]'"
        ) from error

    side = 2 * LONGEST_SIDE  # of the canvas: the visible part may be half as large

    def rasterise(content: bytes) -> bytes:
        text = content.decode("utf-8", "replace")
        try:
            png = svg_to_bytes(
                svg_string=text, width=side, height=side, dpi=96, skip_system_fonts=True
            )
        except ValueError as error:
            raise RejectedError("broken SVG") from error
        return bytes(png)

    return rasterise


def _picture(
    files: Mapping[str, bytes], stem: str, rasterise: Callable[[bytes], bytes]
) -> tuple[str, Image.Image]:
    """Path and RGBA picture of a stamp."""
    png, svg = f"{stem}.png", f"{stem}.svg"
    if png in files:
        return png, _open(files[png])
    if svg in files:
        return svg, _open(rasterise(files[svg]))
    raise RejectedError("no picture")


def _open(content: bytes) -> Image.Image:
    try:
        with Image.open(io.BytesIO(content), formats=("PNG",)) as image:
            if image.width * image.height > _MAX_PIXELS:
                raise RejectedError("more than 16 megapixels")
            return image.convert("RGBA")
    except (UnidentifiedImageError, OSError, SyntaxError, Image.DecompressionBombError) as error:
        raise RejectedError("broken PNG") from error


def _encode(picture: Image.Image) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, "WEBP", quality=WEBP_QUALITY)
    return buffer.getvalue()


def locales(stamps: Iterable[Stamp]) -> Counter[str]:
    """Locale code -> number of stamps with a caption in this language."""
    return Counter(locale for stamp in stamps for locale in stamp.captions)


def counts(stamps: Sequence[Stamp]) -> dict[str, Counter[str]]:
    """Split -> class -> number of stamps."""
    table: dict[str, Counter[str]] = {split: Counter() for split in ("train", "validation", "test")}
    for stamp in stamps:
        table[stamp.split][stamp.item(0)["class"]] += 1
    return table


# The data card, README.md beside the stamps.
_CARD = """\
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

- A picture is cropped to its visible part and scaled down to at most {side} pixels on its longest
  side. If a stamp is available as PNG and SVG, the PNG is used; an SVG is drawn by resvg
  without system fonts. Mirrored pictures, which have no caption, are left out.
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


def render_card(
    chosen: Sequence[Stamp],
    dropped: Mapping[str, int],
    package: str,
    sha256: str,
    size: int,
) -> str:
    """Render the data card.

    Args:
      chosen: the stamps of the data set.
      dropped: how many stamps each rule left out.
      package: file name of the Debian package.
      sha256: its digest.
      size: of the image file, bytes.
    """
    languages = locales(chosen)
    return _CARD.format(
        total=len(chosen),
        language_count=len(languages),
        package=package,
        sha256=sha256,
        megabytes=size / 1e6,
        side=LONGEST_SIDE,
        dropped=_rows(sorted(dropped.items())) or "| none | 0 |",
        classes=_classes(counts(chosen)),
        languages=", ".join(f"{code} {count}" for code, count in languages.most_common()),
    )


def _classes(table: Mapping[str, Counter[str]]) -> str:
    names = sorted({name for column in table.values() for name in column})
    numbers = {name: [column[name] for column in table.values()] for name in names}
    numbers["all"] = [column.total() for column in table.values()]
    return _rows((name, *row, sum(row)) for name, row in numbers.items())


def _rows(rows: Iterable[Sequence[object]]) -> str:
    return "\n".join("| " + " | ".join(map(str, row)) + " |" for row in rows)
