"""The stamps of Tux Paint: pictures with alpha, captions in many languages, splits."""

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
from vljax.data.builtin.cleaning import normalise_caption, split_of
from vljax.data.builtin.pictures import RejectedError, crop_and_scale

FOLDER = "usr/share/tuxpaint/stamps"
LONGEST_SIDE = 256
WEBP_QUALITY = 90

_MAX_PIXELS = 16_000_000
_TRANSLATION = re.compile(r"([A-Za-z_]+(?:@[a-z]+)?)\.utf8=(.*)")
_CLASSES = {"naturalforces": "natural forces"}

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Stamp:
    """One picture of the set.

    Attributes:
      source: path of the picture below the folder of stamps.
      captions: caption by locale code, "en" first.
      split: train, validation or test.
      size: width and height, pixels.
      webp: the picture with alpha.
    """

    source: str
    captions: Mapping[str, str]
    split: str
    size: tuple[int, int]
    webp: bytes

    def item(self, index: int) -> dict[str, Any]:
        """The stamp's line in items.jsonl; `index` is its place in the data set."""
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
    """Whether a file is a picture or the captions of one. Mirrored pictures have no captions."""
    stem, _, ending = name.rpartition(".")
    return ending in ("png", "svg", "txt") and not stem.endswith(("_mirror", "_flip"))


def read_captions(content: bytes) -> dict[str, str]:
    """Caption by locale code of a stamp's text file; empty ones are left out.

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
    """The stamps in the order of their paths, and how many each rule left out.

    Where a stamp is there as PNG and as SVG, the PNG counts.

    Args:
      files: content by path below the folder of stamps.
      rasterise: makes a PNG file of an SVG file.
      progress: called with stamps done and stamps in all.
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
    """The split of each stamp, such that no caption in any language is in two of them.

    Stamps that share a caption in some language, directly or through others, form a group; the
    split of a group is a hash of the first of its English captions in alphabetical order.
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
    """Makes PNG files of SVG files, without system fonts, so that they are the same everywhere.

    Raises:
      UserError: if the package for it is not installed.
    """
    try:
        from resvg_py import svg_to_bytes
    except ImportError as error:
        raise UserError(
            "SVG pictures need a package that is not installed: pip install 'vljax[stamps]'"
        ) from error

    side = 2 * LONGEST_SIDE  # of the canvas: what can be seen of it may be half as large

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
    """Path and RGBA pixels of a stamp."""
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
    """How many stamps have a caption in each language."""
    return Counter(locale for stamp in stamps for locale in stamp.captions)


def counts(stamps: Sequence[Stamp]) -> dict[str, Counter[str]]:
    """Split -> class -> stamps."""
    table: dict[str, Counter[str]] = {split: Counter() for split in ("train", "validation", "test")}
    for stamp in stamps:
        table[stamp.split][stamp.item(0)["class"]] += 1
    return table
