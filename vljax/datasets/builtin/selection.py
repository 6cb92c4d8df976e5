"""Select the items of the built-in data set: the rules, in the order in which they apply."""

import hashlib
import tomllib
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from vljax.datasets.builtin import captions, metadata, pictures
from vljax.datasets.builtin.metadata import Metadata

LEFT_OUT_FOLDERS = frozenset({"computer", "shapes", "buttons", "logos", "cards", "led"})
FOLDERS_WITHOUT_CLASS = frozenset({"special", "unsorted"})
PUBLIC_DOMAIN_URLS = frozenset(
    {
        "http://web.resource.org/cc/PublicDomain",
        "http://creativecommons.org/licenses/publicdomain/",
    }
)
MAX_ITEMS_PER_CAPTION = 8

_PROGRESS_STEP = 500


@dataclass(frozen=True)
class Curation:
    """Decisions made by eye; a source is the path of a picture below the clip art folder."""

    excluded: Mapping[str, str]
    """Source -> reason, for pictures that are left out."""
    captions_by_title: Mapping[str, str]
    """Cleaned title in lower case -> English caption."""
    captions_by_source: Mapping[str, str]
    """Source -> caption."""
    classes: Mapping[str, str]
    """Beginning of a source -> class."""


@dataclass(frozen=True)
class Item:
    """One picture of the data set."""

    source: str
    """Path of the PNG file below the clip art folder."""
    caption: str
    """The caption."""
    caption_from: str
    """Where the caption comes from: "title", "file name" or "hand"."""
    tags: tuple[str, ...]
    """Different keywords in lower case."""
    class_name: str
    """The class."""
    licence_url: str
    """Address of the licence in the SVG file."""
    width: int
    """Width of the WebP picture, pixels."""
    height: int
    """Height of the WebP picture, pixels."""
    webp: bytes
    """The WebP picture with alpha."""

    def record(self, index: int) -> dict[str, object]:
        """The item's line in items.jsonl; `index` is its index in the data set."""
        return {
            "index": index,
            "caption": self.caption,
            "caption_from": self.caption_from,
            "tags": list(self.tags),
            "class": self.class_name,
            "split": captions.split_of(self.caption),
            "width": self.width,
            "height": self.height,
            "licence": "public domain",
            "licence_url": self.licence_url,
            "source": self.source,
            "sha256": hashlib.sha256(self.webp).hexdigest(),
        }


def load_curation(path: Path) -> Curation:
    """Read the decisions made by eye from a TOML file.

    Args:
      path: a file like the `curation.toml` beside this module.

    Returns:
      The decisions.

    Raises:
      KeyError: a table is missing.
    """
    tables = tomllib.loads(path.read_text(encoding="utf-8"))
    return Curation(
        excluded=tables["excluded"],
        captions_by_title=tables["captions"]["by_title"],
        captions_by_source=tables["captions"]["by_source"],
        classes=tables["classes"],
    )


def check_file(png_root: Path, source: str) -> None:
    """Apply the rules that need only the path and header of a file.

    Args:
      png_root: the folder of the PNG files.
      source: path of a PNG file below it.

    Raises:
      RejectedError: the file is in a left-out folder, is a symbolic link, has a broken header
        or more than `pictures.MAX_PIXELS` pixels.
    """
    path = png_root / source
    if LEFT_OUT_FOLDERS & set(Path(source).parent.parts):
        raise pictures.RejectedError("in a left-out folder")
    if path.is_symlink():
        raise pictures.RejectedError("symbolic link")
    pictures.check_header(path)


def read_public_domain_metadata(svg_root: Path, source: str) -> Metadata:
    """Read the metadata that belongs to a PNG file.

    Args:
      svg_root: the folder of the SVG files.
      source: path of the PNG file below its own folder.

    Returns:
      The metadata.

    Raises:
      RejectedError: the SVG file is missing, broken or not tagged public domain.
    """
    path = (svg_root / source).with_suffix(".svg")
    if not path.is_file():
        raise pictures.RejectedError("SVG missing")
    try:
        found = metadata.read_metadata(path)
    except metadata.MetadataError as error:
        raise pictures.RejectedError("SVG broken") from error
    if found.licence_url not in PUBLIC_DOMAIN_URLS:
        raise pictures.RejectedError("not tagged public domain")
    return found


def find_caption(source: str, about: Metadata, curation: Curation) -> tuple[str, str]:
    """Find the caption of a picture.

    Args:
      source: path of the PNG file below the clip art folder.
      about: the metadata of its SVG file.
      curation: the decisions made by eye.

    Returns:
      The caption and where it comes from: "title", "file name" or "hand".

    Raises:
      RejectedError: there is no good caption.
    """
    if source in curation.captions_by_source:
        return curation.captions_by_source[source], "hand"
    if fault := captions.title_fault(about.title, about.creators):
        raise pictures.RejectedError(fault)
    if captions.names_a_batch(about.title):
        caption, origin = captions.clean_file_name(Path(source).stem), "file name"
    else:
        caption, origin = captions.clean_text(about.title), "title"
    if caption.lower() in curation.captions_by_title:
        return curation.captions_by_title[caption.lower()], "hand"
    if fault := captions.caption_fault(caption):
        raise pictures.RejectedError(fault)
    return caption, origin


def class_of(source: str, classes: Mapping[str, str]) -> str:
    """The class of a picture.

    Args:
      source: path of the PNG file below the clip art folder.
      classes: class by beginning of the source; the longest that fits counts.

    Returns:
      The class, by default the name of the top folder.

    Raises:
      RejectedError: the top folder holds pictures of all kinds.
    """
    fitting = [prefix for prefix in classes if source.startswith(prefix)]
    if fitting:
        return classes[max(fitting, key=len)]
    folder = source.split("/")[0]
    if folder in FOLDERS_WITHOUT_CLASS:
        raise pictures.RejectedError("without a class")
    return folder.replace("_", " ")


def make_item(png_root: Path, svg_root: Path, source: str, curation: Curation) -> Item:
    """Make an item from a PNG file and its SVG file.

    Args:
      png_root: the folder of the PNG files.
      svg_root: the folder of the SVG files.
      source: path of the PNG file below its folder.
      curation: the decisions made by eye.

    Returns:
      The item.

    Raises:
      RejectedError: the picture breaks a selection rule.
    """
    check_file(png_root, source)
    about = read_public_domain_metadata(svg_root, source)
    if source in curation.excluded:
        raise pictures.RejectedError(f"excluded by eye: {curation.excluded[source]}")
    caption, caption_from = find_caption(source, about, curation)
    class_name = class_of(source, curation.classes)
    picture = pictures.shrink(png_root / source)
    return Item(
        source=source,
        caption=caption,
        caption_from=caption_from,
        tags=tuple(captions.clean_tags(about.keywords, about.creators)),
        class_name=class_name,
        licence_url=about.licence_url,
        width=picture.width,
        height=picture.height,
        webp=pictures.encode(picture),
    )


def select(png_root: Path, svg_root: Path, curation: Curation) -> tuple[list[Item], Counter[str]]:
    """Apply all rules to all PNG files, in the order of their paths.

    Args:
      png_root: the folder of the PNG files.
      svg_root: the folder of the SVG files.
      curation: the decisions made by eye.

    Returns:
      The items, and how many files each rule left out; a file counts for the first rule
      that it breaks.
    """
    sources = sorted(path.relative_to(png_root).as_posix() for path in png_root.rglob("*.png"))
    items: list[Item] = []
    dropped: Counter[str] = Counter()
    seen: set[bytes] = set()
    uses: Counter[str] = Counter()
    for count, source in enumerate(sources, start=1):
        try:
            item = make_item(png_root, svg_root, source, curation)
            _check_repeats(png_root / source, item, seen, uses)
            items.append(item)
        except pictures.RejectedError as error:
            dropped[str(error)] += 1
        if count % _PROGRESS_STEP == 0:
            print(f"{count} of {len(sources)} files, {len(items)} kept", flush=True)
    return items, dropped


def _check_repeats(path: Path, item: Item, seen: set[bytes], uses: Counter[str]) -> None:
    digests = {hashlib.sha256(data).digest() for data in (path.read_bytes(), item.webp)}
    if digests & seen:
        raise pictures.RejectedError("duplicate of an earlier file")
    key = captions.normalise_caption(item.caption)
    if uses[key] >= MAX_ITEMS_PER_CAPTION:
        raise pictures.RejectedError("8 items have the caption already")
    seen |= digests
    uses[key] += 1
