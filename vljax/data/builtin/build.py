"""Builds the built-in data set from the Debian packages of the Open Clip Art Library.

Unpack `openclipart-png` and `openclipart-svg` with `dpkg-deb -x` and run:

    python -m vljax.data.builtin.build --png PNG_DIR --svg SVG_DIR --out OUT_DIR

The same packages give byte-identical files.
"""

import argparse
import hashlib
import io
import json
import struct
import sys
import tomllib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from array_record.python import array_record_module
from PIL import Image, UnidentifiedImageError

from vljax.data.builtin import card, cleaning, svg

PNG_FOLDER = "usr/share/openclipart/png"
SVG_FOLDER = "usr/share/openclipart/svg"
LEFT_OUT_FOLDERS = frozenset({"computer", "shapes", "buttons", "logos", "cards", "led"})
FOLDERS_WITHOUT_CLASS = frozenset({"special", "unsorted"})
PUBLIC_DOMAIN_URLS = frozenset(
    {
        "http://web.resource.org/cc/PublicDomain",
        "http://creativecommons.org/licenses/publicdomain/",
    }
)
LONGEST_SIDE = 128
SHORTEST_SIDE = 8
MAX_PIXELS = 16_000_000
MAX_ITEMS_PER_CAPTION = 8
WEBP_QUALITY = 50
ALPHA_LEVELS = 8

_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_VISIBLE_ALPHA = 8
_LEAST_MEAN_ALPHA = 0.01
_PROGRESS_STEP = 500


class RejectedError(Exception):
    """A picture breaks a selection rule; the message names the rule."""


@dataclass(frozen=True)
class Curation:
    """Decisions made by eye.

    Attributes:
        excluded: Reason by source for pictures that are left out.
        captions_by_title: English caption by cleaned title in lower case.
        captions_by_source: Caption by source.
        classes: Class by beginning of the source.
    """

    excluded: Mapping[str, str]
    captions_by_title: Mapping[str, str]
    captions_by_source: Mapping[str, str]
    classes: Mapping[str, str]


@dataclass(frozen=True)
class Item:
    """One picture of the data set.

    Attributes:
        source: Path of the PNG file below the clip art folder.
        caption: The caption.
        caption_from: Where the caption comes from: "title", "file name" or "hand".
        tags: Different keywords in lower case.
        class_name: The class.
        licence_url: Address of the licence as found in the SVG file.
        width: Width of the WebP picture in pixels.
        height: Height of the WebP picture in pixels.
        webp: The WebP picture with alpha.
    """

    source: str
    caption: str
    caption_from: str
    tags: tuple[str, ...]
    class_name: str
    licence_url: str
    width: int
    height: int
    webp: bytes

    def record(self, index: int) -> dict[str, object]:
        """Returns the item's line in items.jsonl; `index` is its place in the data set."""
        return {
            "index": index,
            "caption": self.caption,
            "caption_from": self.caption_from,
            "tags": list(self.tags),
            "class": self.class_name,
            "split": cleaning.split_of(self.caption),
            "width": self.width,
            "height": self.height,
            "licence": "public domain",
            "licence_url": self.licence_url,
            "source": self.source,
            "sha256": hashlib.sha256(self.webp).hexdigest(),
        }


def load_curation(path: Path) -> Curation:
    """Reads the decisions made by eye from a TOML file.

    Args:
        path: A file like the `curation.toml` beside this module.

    Returns:
        The decisions.

    Raises:
        KeyError: A table is missing.
    """
    tables = tomllib.loads(path.read_text(encoding="utf-8"))
    return Curation(
        excluded=tables["excluded"],
        captions_by_title=tables["captions"]["by_title"],
        captions_by_source=tables["captions"]["by_source"],
        classes=tables["classes"],
    )


def check_file(png_root: Path, source: str) -> None:
    """Applies the rules that need no more than a file's path and header.

    Args:
        png_root: The folder of the PNG files.
        source: Path of a PNG file below it.

    Raises:
        RejectedError: The file is in a left-out folder, is a symbolic link, has a broken header
            or more than `MAX_PIXELS` pixels.
    """
    path = png_root / source
    if LEFT_OUT_FOLDERS & set(Path(source).parent.parts):
        raise RejectedError("in a left-out folder")
    if path.is_symlink():
        raise RejectedError("symbolic link")
    with path.open("rb") as file:
        header = file.read(24)
    if len(header) < 24 or not header.startswith(_PNG_SIGNATURE):
        raise RejectedError("broken PNG")
    # The header alone, so that a huge picture is neither decoded nor opened with Pillow.
    width, height = struct.unpack(">II", header[16:24])
    if width * height > MAX_PIXELS:
        raise RejectedError("more than 16 megapixels")


def read_public_domain_metadata(svg_root: Path, source: str) -> svg.Metadata:
    """Reads the metadata that belongs to a PNG file.

    Args:
        svg_root: The folder of the SVG files.
        source: Path of the PNG file below its own folder.

    Returns:
        The metadata.

    Raises:
        RejectedError: The SVG file is missing, broken or not tagged public domain.
    """
    path = (svg_root / source).with_suffix(".svg")
    if not path.is_file():
        raise RejectedError("SVG missing")
    try:
        metadata = svg.read_metadata(path)
    except svg.MetadataError as error:
        raise RejectedError("SVG broken") from error
    if metadata.licence_url not in PUBLIC_DOMAIN_URLS:
        raise RejectedError("not tagged public domain")
    return metadata


def find_caption(source: str, metadata: svg.Metadata, curation: Curation) -> tuple[str, str]:
    """Finds the caption of a picture.

    Args:
        source: Path of the PNG file below the clip art folder.
        metadata: The metadata of its SVG file.
        curation: The decisions made by eye.

    Returns:
        The caption and where it comes from: "title", "file name" or "hand".

    Raises:
        RejectedError: There is no good caption.
    """
    if source in curation.captions_by_source:
        return curation.captions_by_source[source], "hand"
    if fault := cleaning.title_fault(metadata.title, metadata.creators):
        raise RejectedError(fault)
    if cleaning.names_a_batch(metadata.title):
        caption, origin = cleaning.clean_file_name(Path(source).stem), "file name"
    else:
        caption, origin = cleaning.clean_text(metadata.title), "title"
    if caption.lower() in curation.captions_by_title:
        return curation.captions_by_title[caption.lower()], "hand"
    if fault := cleaning.caption_fault(caption):
        raise RejectedError(fault)
    return caption, origin


def class_of(source: str, classes: Mapping[str, str]) -> str:
    """Returns the class of a picture.

    Args:
        source: Path of the PNG file below the clip art folder.
        classes: Class by beginning of the source; the longest that fits counts.

    Returns:
        The class, by default the name of the top folder.

    Raises:
        RejectedError: The top folder holds pictures of all kinds.
    """
    fitting = [prefix for prefix in classes if source.startswith(prefix)]
    if fitting:
        return classes[max(fitting, key=len)]
    folder = source.split("/")[0]
    if folder in FOLDERS_WITHOUT_CLASS:
        raise RejectedError("without a class")
    return folder.replace("_", " ")


def shrink(path: Path) -> Image.Image:
    """Crops a PNG picture to what can be seen and scales it down.

    Args:
        path: The PNG file.

    Returns:
        An RGBA picture whose longest side is at most `LONGEST_SIDE` pixels.

    Raises:
        RejectedError: The file can not be decoded, or next to nothing would be seen.
    """
    try:
        with Image.open(path) as file:
            picture = file.convert("RGBA")
    except (UnidentifiedImageError, OSError, SyntaxError) as error:
        raise RejectedError("broken PNG") from error
    visible = picture.getchannel("A").point(lambda alpha: 255 * (alpha >= _VISIBLE_ALPHA))
    box = visible.getbbox()
    if box is None:
        raise RejectedError("almost empty")
    picture = picture.crop(box)
    scale = min(1.0, LONGEST_SIDE / max(picture.size))
    width, height = (max(1, round(side * scale)) for side in picture.size)
    picture = picture.resize((width, height), Image.Resampling.LANCZOS)
    if min(width, height) < SHORTEST_SIDE:
        raise RejectedError("less than 8 pixels high or wide")
    histogram = picture.getchannel("A").histogram()
    mean_alpha = sum(alpha * count for alpha, count in enumerate(histogram)) / 255
    if mean_alpha < _LEAST_MEAN_ALPHA * width * height:
        raise RejectedError("almost empty")
    # WebP stores alpha without loss; fewer levels make the data a third smaller.
    step = 255 / (ALPHA_LEVELS - 1)
    picture.putalpha(picture.getchannel("A").point(lambda alpha: round(round(alpha / step) * step)))
    return picture


def encode(picture: Image.Image) -> bytes:
    """Returns an RGBA picture as lossy WebP with lossless alpha."""
    buffer = io.BytesIO()
    picture.save(buffer, "WEBP", quality=WEBP_QUALITY)
    return buffer.getvalue()


def make_item(png_root: Path, svg_root: Path, source: str, curation: Curation) -> Item:
    """Makes an item of one PNG file and its SVG file.

    Args:
        png_root: The folder of the PNG files.
        svg_root: The folder of the SVG files.
        source: Path of the PNG file below its folder.
        curation: The decisions made by eye.

    Returns:
        The item.

    Raises:
        RejectedError: The picture breaks a selection rule.
    """
    check_file(png_root, source)
    metadata = read_public_domain_metadata(svg_root, source)
    if source in curation.excluded:
        raise RejectedError(f"excluded by eye: {curation.excluded[source]}")
    caption, caption_from = find_caption(source, metadata, curation)
    class_name = class_of(source, curation.classes)
    picture = shrink(png_root / source)
    return Item(
        source=source,
        caption=caption,
        caption_from=caption_from,
        tags=tuple(cleaning.clean_tags(metadata.keywords, metadata.creators)),
        class_name=class_name,
        licence_url=metadata.licence_url,
        width=picture.width,
        height=picture.height,
        webp=encode(picture),
    )


def select(png_root: Path, svg_root: Path, curation: Curation) -> tuple[list[Item], Counter[str]]:
    """Applies all rules to all PNG files, in the order of their paths.

    Args:
        png_root: The folder of the PNG files.
        svg_root: The folder of the SVG files.
        curation: The decisions made by eye.

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
        except RejectedError as error:
            dropped[str(error)] += 1
        if count % _PROGRESS_STEP == 0:
            print(f"{count} of {len(sources)} files, {len(items)} kept", flush=True)
    return items, dropped


def _check_repeats(path: Path, item: Item, seen: set[bytes], uses: Counter[str]) -> None:
    digests = {hashlib.sha256(data).digest() for data in (path.read_bytes(), item.webp)}
    if digests & seen:
        raise RejectedError("duplicate of an earlier file")
    key = cleaning.normalise_caption(item.caption)
    if uses[key] >= MAX_ITEMS_PER_CAPTION:
        raise RejectedError("8 items have the caption already")
    seen |= digests
    uses[key] += 1


def write(items: Sequence[Item], dropped: Mapping[str, int], out: Path) -> None:
    """Writes the data set.

    Args:
        items: The items in the order of the data set.
        dropped: How many files each rule left out.
        out: The folder for items.jsonl, images.array_record and README.md; made if missing.
    """
    out.mkdir(parents=True, exist_ok=True)
    records = [item.record(index) for index, item in enumerate(items)]
    with (out / "items.jsonl").open("w", encoding="utf-8", newline="\n") as file:
        file.writelines(json.dumps(record, ensure_ascii=False) + "\n" for record in records)
    images_path = out / "images.array_record"
    # One record a group, so that reading one picture at random reads no other.
    writer = array_record_module.ArrayRecordWriter(str(images_path), "group_size:1,uncompressed")
    for item in items:
        writer.write(item.webp)
    writer.close()
    text = card.render(records, dropped, images_path.stat().st_size)
    (out / "README.md").write_text(text, encoding="utf-8", newline="\n")


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the builder from the command line.

    Args:
        arguments: Command-line arguments; those of the process by default.

    Returns:
        The exit status: 0, or 2 if a folder is missing or holds no clip art.
    """
    parser = argparse.ArgumentParser(
        prog="python -m vljax.data.builtin.build",
        description="Build the built-in data set from two unpacked Debian packages.",
        epilog="Unpack a package with: dpkg-deb -x PACKAGE.deb DIR",
    )
    parser.add_argument(
        "--png", type=Path, required=True, metavar="DIR", help="openclipart-png, unpacked"
    )
    parser.add_argument(
        "--svg", type=Path, required=True, metavar="DIR", help="openclipart-svg, unpacked"
    )
    parser.add_argument(
        "--out", type=Path, required=True, metavar="DIR", help="folder to write the data set to"
    )
    options = parser.parse_args(arguments)
    png_root, svg_root = options.png / PNG_FOLDER, options.svg / SVG_FOLDER
    for root in (png_root, svg_root):
        if not root.is_dir():
            print(f"error: no folder {root}", file=sys.stderr)
            return 2
    curation = load_curation(Path(__file__).with_name("curation.toml"))
    items, dropped = select(png_root, svg_root, curation)
    if not items:
        print(f"error: no usable clip art below {png_root}", file=sys.stderr)
        return 2
    write(items, dropped, options.out)
    print(f"wrote {len(items)} items to {options.out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
