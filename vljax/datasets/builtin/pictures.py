"""Checks, shrinks and encodes the pictures of the built-in data set."""

import io
import re
import struct
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, UnidentifiedImageError

LONGEST_SIDE = 128
SHORTEST_SIDE = 8
MAX_PIXELS = 16_000_000
WEBP_QUALITY = 50
ALPHA_LEVELS = 8

_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_VISIBLE_ALPHA = 8
_LEAST_MEAN_ALPHA = 0.01


class RejectedError(Exception):
    """A picture breaks a selection rule; the message names the rule."""


def check_header(path: Path) -> None:
    """Reads the size of a PNG file from its header.

    Args:
        path: The PNG file.

    Raises:
        RejectedError: The header is broken or states more than `MAX_PIXELS` pixels.
    """
    with path.open("rb") as file:
        header = file.read(24)
    if len(header) < 24 or not header.startswith(_PNG_SIGNATURE):
        raise RejectedError("broken PNG")
    # The header alone, so that a huge picture is neither decoded nor opened with Pillow.
    width, height = struct.unpack(">II", header[16:24])
    if width * height > MAX_PIXELS:
        raise RejectedError("more than 16 megapixels")


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
    picture = crop_and_scale(picture, LONGEST_SIDE)
    # WebP stores alpha without loss; fewer levels make the data a third smaller.
    step = 255 / (ALPHA_LEVELS - 1)
    picture.putalpha(picture.getchannel("A").point(lambda alpha: round(round(alpha / step) * step)))
    return picture


def crop_and_scale(picture: Image.Image, longest_side: int) -> Image.Image:
    """Crops a picture to what can be seen and scales it down; never up.

    Args:
        picture: An RGBA picture.
        longest_side: Of the result, at most, in pixels.

    Returns:
        An RGBA picture.

    Raises:
        RejectedError: Next to nothing would be seen.
    """
    visible = picture.getchannel("A").point(lambda alpha: 255 * (alpha >= _VISIBLE_ALPHA))
    box = visible.getbbox()
    if box is None:
        raise RejectedError("almost empty")
    picture = picture.crop(box)
    scale = min(1.0, longest_side / max(picture.size))
    width, height = (max(1, round(side * scale)) for side in picture.size)
    picture = picture.resize((width, height), Image.Resampling.LANCZOS)
    if min(width, height) < SHORTEST_SIDE:
        raise RejectedError("less than 8 pixels high or wide")
    histogram = picture.getchannel("A").histogram()
    mean_alpha = sum(alpha * count for alpha, count in enumerate(histogram)) / 255
    if mean_alpha < _LEAST_MEAN_ALPHA * width * height:
        raise RejectedError("almost empty")
    return picture


def encode(picture: Image.Image) -> bytes:
    """Returns an RGBA picture as lossy WebP with lossless alpha."""
    buffer = io.BytesIO()
    picture.save(buffer, "WEBP", quality=WEBP_QUALITY)
    return buffer.getvalue()


# --- Reads the RDF metadata of an Open Clip Art SVG file ------------------------------------------

_ENTITY = re.compile(rb"<!ENTITY\s+%?\s*[\w.:-]+\s+(\"[^\"]*\"|'[^']*'|\w+)")


class MetadataError(ValueError):
    """An SVG file has no metadata that can be read."""


@dataclass(frozen=True)
class Metadata:
    """What an SVG file says about itself, as written there.

    Attributes:
        title: The title; empty if there is none.
        creators: The names of the authors.
        keywords: The keywords, in order.
        licence_url: The address of the licence; empty if there is none.
    """

    title: str
    creators: tuple[str, ...]
    keywords: tuple[str, ...]
    licence_url: str


def read_metadata(path: Path) -> Metadata:
    """Reads the metadata of one SVG file; the drawing after it is not parsed.

    Args:
        path: The SVG file.

    Returns:
        The first work described in the file's metadata.

    Raises:
        MetadataError: The file is not XML up to the end of its metadata, describes no work, or
            declares entities that refer to other entities or files.
    """
    data = path.read_bytes()
    _check_entities(data)
    try:
        for _, element in ElementTree.iterparse(io.BytesIO(data)):
            if _local_name(element) == "metadata":
                return _parse_metadata(element)
    except ElementTree.ParseError as error:
        raise MetadataError(f"{path.name}: {error}") from error
    raise MetadataError(f"{path.name}: no metadata element")


def _check_entities(data: bytes) -> None:
    # Drawing programs declare flat entities for their namespaces; an entity that refers to
    # another one can grow without bound when it is expanded.
    for match in _ENTITY.finditer(data):
        value = match.group(1)
        if value[:1] not in b"\"'" or b"&" in value:
            raise MetadataError("an entity refers to another entity or file")


def _parse_metadata(metadata: ElementTree.Element) -> Metadata:
    work = next(_descendants(metadata, "Work"), None)
    if work is None:
        raise MetadataError("the metadata describes no work")
    titles = [_text(child) for child in work if _local_name(child) == "title"]
    licences = [
        value
        for licence in _descendants(work, "license")
        for name, value in licence.attrib.items()
        if name.endswith("resource")
    ]
    creators = [
        _text(title)
        for creator in _descendants(work, "creator")
        for title in _descendants(creator, "title")
    ]
    keywords = [
        _text(item)
        for subject in _descendants(work, "subject")
        for item in _descendants(subject, "li")
    ]
    return Metadata(
        title=titles[0] if titles else "",
        creators=tuple(filter(None, creators)),
        keywords=tuple(filter(None, keywords)),
        licence_url=licences[0] if licences else "",
    )


def _descendants(element: ElementTree.Element, name: str) -> Iterator[ElementTree.Element]:
    return (child for child in element.iter() if _local_name(child) == name)


def _local_name(element: ElementTree.Element) -> str:
    # The files use several addresses for one vocabulary, so the namespace says nothing.
    return element.tag.rpartition("}")[2]


def _text(element: ElementTree.Element) -> str:
    return (element.text or "").strip()
